"""The step `scrape`: from a source to the documents that are new or changed.

    crawl.py      the step: plan, loop, records, result        source.py        where a crawl begins and how far it goes
    plan.py       what is asked for next                       pydoc_site.py    this Python's documentation (the
    default) frontier.py   what is known of every page: a log           bundled_site.py  thirty pages that come with
    the project fetcher.py    asks for pages; politeness.py, robots.py,    documents.py     what a page is: new, the
    same, gone
                  download.py, address.py                      extract.py       text, title and links of a page
    browser.py    renders pages that are script                workers.py       the Ray actors and tasks

A page's identity is its canonical URL. Servers that the step runs itself have stable names (`http://pydoc.localhost/`,
`http://bundled.localhost/`) whatever their port is, so their documents keep their identity from run to run.
"""

from steps.scrape.config import ScrapeConfig
from steps.scrape.crawl import run

__all__ = ["ScrapeConfig", "run"]
