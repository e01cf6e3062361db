"""Airflow as the scheduled master of a durable loop: a deferrable operator over the Ray Jobs REST API.

Nothing here imports ray or the loop itself; what is known of them comes over HTTP.
"""
