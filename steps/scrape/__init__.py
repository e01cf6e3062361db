"""The step `scrape`: from a source to the documents that are new or changed.

    crawl.py     the step: plan, loop, records, result      source.py        where a crawl begins, how far it goes
    plan.py      what is asked for next                     pydoc_site.py    this Python's documentation, the default
    frontier.py  what is known of every page: a log         bundled_site.py  thirty pages that come with the project
    delivery.py  what was given and never arrived           documents.py     what a page is: new, the same, gone
    fetcher.py   asks for pages, with politeness.py,        extract.py       text, title and links of a page
                 robots.py, download.py and address.py      workers.py       the Ray actors and tasks
    browser.py   renders pages that are script, with egress.py (its way out) and guard.py (its end)

A page's identity is its canonical URL. Servers that the step runs itself have stable names (`http://pydoc.localhost/`,
`http://bundled.localhost/`) whatever their port is, so their documents keep their identity from run to run.
"""

from steps.scrape.config import ScrapeConfig
from steps.scrape.crawl import run
from steps.scrape.delivery import confirm

__all__ = ["ScrapeConfig", "run", "confirm"]
