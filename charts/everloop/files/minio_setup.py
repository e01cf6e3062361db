"""Makes the buckets, the loop's own user and, if asked, word of new objects to the door. May be repeated.

Runs beside MinIO, which is not ready before. The root keys stay in that pod: the loop's user has rights on its buckets
alone, and asks with them for the credentials that each step gets.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from minio import Minio, MinioAdmin
from minio.commonconfig import ENABLED, Filter
from minio.credentials import StaticProvider
from minio.error import MinioAdminException, MinioException
from minio.lifecycleconfig import LifecycleConfig, NoncurrentVersionExpiration, Rule
from minio.notificationconfig import NotificationConfig, QueueConfig
from minio.versioningconfig import VersioningConfig

POLICY = "everloop-loop"
REGION = "us-east-1"
TIMEOUT_S = 600.0
PAUSE_S = 1.0


def policy(buckets: list[str]) -> dict[str, Any]:
    """What the loop's user may do."""
    on_buckets = ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"]
    on_objects = [
        "s3:GetObject",
        "s3:PutObject",
        "s3:DeleteObject",
        "s3:AbortMultipartUpload",
        "s3:ListMultipartUploadParts",
    ]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": on_buckets, "Resource": [f"arn:aws:s3:::{bucket}" for bucket in buckets]},
            {"Effect": "Allow", "Action": on_objects, "Resource": [f"arn:aws:s3:::{bucket}/*" for bucket in buckets]},
        ],
    }  # fmt: skip


def set_up(environ: Mapping[str, str]) -> None:
    """Makes what is missing."""
    url = urlsplit(environ["MINIO_URL"])
    root = environ["MINIO_ROOT_USER"], environ["MINIO_ROOT_PASSWORD"]
    is_secure = url.scheme == "https"
    client = Minio(url.netloc, access_key=root[0], secret_key=root[1], secure=is_secure, region=REGION)
    admin = MinioAdmin(endpoint=url.netloc, credentials=StaticProvider(*root), region=REGION, secure=is_secure)
    prefix, incoming = environ["PREFIX"].strip("/"), environ.get("INCOMING", "")
    # Objects that are rewritten every few seconds and mean nothing afterwards get no versions.
    _make_bucket(client, environ["BUCKET"], [f"{prefix}/.clock", f"{prefix}/runs/*/live/"], environ)
    if incoming:
        _make_bucket(client, incoming, [], environ)
        told = QueueConfig(["s3:ObjectCreated:*"], config_id="new-data", queue="arn:minio:sqs::DOOR:webhook")
        client.set_bucket_notification(bucket_name=incoming, config=NotificationConfig(queue_config_list=[told]))
    admin.policy_add(POLICY, policy=policy([bucket for bucket in (environ["BUCKET"], incoming) if bucket]))
    user = environ["LOOP_ACCESS_KEY"]
    admin.user_add(user, environ["LOOP_SECRET_KEY"])
    if POLICY not in json.loads(admin.user_info(user)).get("policyName", ""):
        admin.attach_policy([POLICY], user=user)


def _make_bucket(client: Minio, name: str, fleeting: list[str], environ: Mapping[str, str]) -> None:
    if not client.bucket_exists(bucket_name=name):
        client.make_bucket(bucket_name=name)
    client.set_bucket_versioning(bucket_name=name, config=VersioningConfig(ENABLED, excluded_prefixes=fleeting or None))
    older = NoncurrentVersionExpiration(noncurrent_days=int(environ["KEEP_DELETED_DAYS"]))
    rule = Rule(ENABLED, rule_filter=Filter(prefix=""), rule_id="older", noncurrent_version_expiration=older)
    client.set_bucket_lifecycle(bucket_name=name, config=LifecycleConfig([rule]))


def main() -> int:
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            set_up(os.environ)
        except (MinioException, MinioAdminException, OSError) as error:
            # urllib3's errors are no OSError; MinIO's client raises them inside its own.
            if time.monotonic() > deadline:
                sys.stderr.write(f"MinIO is not set up: {error}\n")
                return 1
            time.sleep(PAUSE_S)
        else:
            sys.stdout.write("buckets and user are there\n")
            return 0


if __name__ == "__main__":
    sys.exit(main())
