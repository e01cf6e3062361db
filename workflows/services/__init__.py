"""The programs around the loop on one machine: object storage, tracking, metrics, alerts, Ray, the door, the
reconciler, and Airflow and n8n where they are installed. `make up` starts them, `make down` ends them.

Each service is a class with `up`, `down` and `status`; `table` lists them. A service is known by the pid, start time
and mark of its process, so nobody else's program is ever ended.
"""
