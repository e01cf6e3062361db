"""MinIO: the buckets, a user for the loop with rights on them alone, and word of new objects to the HTTP door."""

from __future__ import annotations

import io
import json
import os
from typing import Any
from urllib.parse import quote

from workflows.services.config import HOST
from workflows.services.errors import SetupFailed
from workflows.services.service import Daemon, Launch, answers, program
from workflows.services.site import PROJECT

ARN = "arn:minio:sqs::DOOR:webhook"
_ADVICE = (
    "set EVERLOOP_MINIO, or put `minio` on PATH or into .tools/bin; it is built from its Go module: "
    "GOBIN=$PWD/.tools/bin go install github.com/minio/minio@latest"
)
_POLICY = "everloop-loop"


class Minio(Daemon):
    """The object storage. Also issues the temporary credentials of steps: its STS answers at the same address."""

    name = "minio"
    port = "minio"

    def launch(self) -> Launch:
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        ports = self.site.config.ports
        user, password = self.site.secrets.minio_root
        environment = {"MINIO_ROOT_USER": user, "MINIO_ROOT_PASSWORD": password, "MINIO_PROMETHEUS_AUTH_TYPE": "public"}
        if self._tells_the_door():
            (self.folder / "events").mkdir(exist_ok=True)
            alias = quote(self.site.config.loop.alias, safe="")
            environment |= {
                "MINIO_NOTIFY_WEBHOOK_ENABLE_DOOR": "on",
                "MINIO_NOTIFY_WEBHOOK_ENDPOINT_DOOR": f"{self.site.url('triggers')}/v1/hooks/minio?alias={alias}",
                "MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_DOOR": f"Bearer {self.site.secrets.api_keys['Service::minio']}",
                # Events wait here while the door is away.
                "MINIO_NOTIFY_WEBHOOK_QUEUE_DIR_DOOR": str(self.folder / "events"),
            }
        command = [_binary(), "server", str(data), "--quiet"]
        command += ["--address", f"{HOST}:{ports.minio}", "--console-address", f"{HOST}:{ports.minio_console}"]
        return Launch(command, environment)

    def problem(self) -> str:
        return answers(f"{self.site.url('minio')}/minio/health/ready")

    def set_up(self) -> None:
        """Makes what is missing; each call may be repeated."""
        try:
            import minio
            from minio import credentials, error
        except ImportError as missing:
            raise SetupFailed(self.name, f"{missing}; `make setup EXTRAS=minio` brings it") from None
        address = f"{HOST}:{self.site.config.ports.minio}"
        user, password = self.site.secrets.minio_root
        client = minio.Minio(address, access_key=user, secret_key=password, secure=False, region="us-east-1")
        admin = minio.MinioAdmin(
            endpoint=address, credentials=credentials.StaticProvider(user, password), region="us-east-1", secure=False
        )
        try:
            self._make_buckets(client)
            self._make_user(admin)
        except (error.MinioException, error.MinioAdminException, OSError) as refused:
            raise SetupFailed(self.name, str(refused)) from refused

    def _ports(self) -> list[int]:
        return [self.site.config.ports.minio, self.site.config.ports.minio_console]

    def _tells_the_door(self) -> bool:
        return "triggers" in self.site.names and bool(self.site.config.minio.incoming)

    def _make_buckets(self, client: Any) -> None:
        from minio.commonconfig import ENABLED, Filter
        from minio.lifecycleconfig import LifecycleConfig, NoncurrentVersionExpiration, Rule
        from minio.versioningconfig import VersioningConfig

        settings = self.site.config.minio
        prefix = f"{settings.prefix}/" if settings.prefix else ""
        # Objects that are rewritten every few seconds and mean nothing afterwards get no versions.
        fleeting = [f"{prefix}.clock", f"{prefix}runs/*/live/"]
        for bucket, excluded in ((settings.bucket, fleeting), (settings.incoming, [])):
            if not bucket:
                continue
            if not client.bucket_exists(bucket_name=bucket):
                client.make_bucket(bucket_name=bucket)
            config = VersioningConfig(ENABLED, excluded_prefixes=excluded or None)
            client.set_bucket_versioning(bucket_name=bucket, config=config)
            expiration = NoncurrentVersionExpiration(noncurrent_days=settings.keep_deleted_days)
            rule = Rule(
                ENABLED, rule_filter=Filter(prefix=""), rule_id="older", noncurrent_version_expiration=expiration
            )
            client.set_bucket_lifecycle(bucket_name=bucket, config=LifecycleConfig([rule]))
        if self._tells_the_door():
            self._notify(client, settings.incoming)

    def _notify(self, client: Any, bucket: str) -> None:
        from minio.notificationconfig import NotificationConfig, QueueConfig

        told = QueueConfig(["s3:ObjectCreated:*"], config_id="new-data", queue=ARN)
        client.set_bucket_notification(bucket_name=bucket, config=NotificationConfig(queue_config_list=[told]))

    def _make_user(self, admin: Any) -> None:
        user, password = self.site.secrets.minio_loop
        settings = self.site.config.minio
        buckets = [bucket for bucket in (settings.bucket, settings.incoming) if bucket]
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"],
                    "Resource": [f"arn:aws:s3:::{bucket}" for bucket in buckets],
                },
                {
                    "Effect": "Allow",
                    "Action": [
                        "s3:GetObject",
                        "s3:PutObject",
                        "s3:DeleteObject",
                        "s3:AbortMultipartUpload",
                        "s3:ListMultipartUploadParts",
                    ],
                    "Resource": [f"arn:aws:s3:::{bucket}/*" for bucket in buckets],
                },
            ],
        }
        admin.policy_add(_POLICY, policy=policy)
        admin.user_add(user, password)
        if _POLICY not in json.loads(admin.user_info(user)).get("policyName", ""):
            admin.attach_policy([_POLICY], user=user)

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Writes an object as the loop's user, to see that it may."""
        import minio

        user, password = self.site.secrets.minio_loop
        address = f"{HOST}:{self.site.config.ports.minio}"
        client = minio.Minio(address, access_key=user, secret_key=password, secure=False, region="us-east-1")
        client.put_object(bucket_name=bucket, object_name=key, data=io.BytesIO(data), length=len(data))


def _binary() -> str:
    return program(
        "minio", "minio", _ADVICE, os.environ.get("EVERLOOP_MINIO"), str(PROJECT / ".tools" / "bin" / "minio")
    )
