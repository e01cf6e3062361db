#!/usr/bin/env bash
# Builds the images from the working tree and prints their sizes: build.sh [ROLE...] (default: all).
#   REGISTRY=everloop TAG=0.1.0 BASE_IMAGE=python:3.11-slim-bookworm ACCELERATOR=cpu TORCH_INDEX= EXTRAS=minio PRUNE=1 DOCKER=docker
# The bills of materials are copied to build/sbom/.
set -euo pipefail
cd "$(dirname "$0")/.."
export DOCKER_BUILDKIT=1
docker=${DOCKER:-docker}
registry=${REGISTRY:-everloop}
tag=${TAG:-0.1.0}
roles=("$@")
((${#roles[@]})) || for folder in images/*/; do roles+=("$(basename "$folder")"); done

if [[ ! -x images/minio/minio ]] && found=$(command -v minio); then cp "$found" images/minio/minio; fi
mkdir -p build/sbom
for role in "${roles[@]}"; do
  if [[ ! -f images/$role/Dockerfile ]]; then
    echo "there is no image $role: see images/" >&2
    exit 2
  fi
  started=$SECONDS
  arguments=(--build-arg "BASE_IMAGE=${BASE_IMAGE:-python:3.11-slim-bookworm}" --build-arg "VERSION=$tag")
  case $role in
    ray) arguments+=(--build-arg "ACCELERATOR=${ACCELERATOR:-cpu}" --build-arg "TORCH_INDEX=${TORCH_INDEX:-}" --build-arg "EXTRAS=${EXTRAS:-minio}") ;;
    ray-vllm)
      if ! "$docker" image inspect "$registry/ray:$tag" >/dev/null 2>&1; then
        echo "ray-vllm stands on $registry/ray:$tag, which is not there: build ray before it" >&2
        exit 2
      fi
      arguments+=(--build-arg "RAY_IMAGE=$registry/ray:$tag")
      ;;
  esac
  "$docker" build --quiet -f "images/$role/Dockerfile" "${arguments[@]}" -t "$registry/$role:$tag" . >/dev/null
  "$docker" run --rm --network none --entrypoint cat "$registry/$role:$tag" /usr/share/sbom/everloop.cdx.json >"build/sbom/$role.cdx.json"
  size=$("$docker" image inspect -f '{{.Size}}' "$registry/$role:$tag")
  printf '%-14s %6d MB  %4d s  %4d packages\n' "$role" $((size / 1000000)) $((SECONDS - started)) "$(grep -c '"purl"' "build/sbom/$role.cdx.json")"
done
if [[ -n ${PRUNE:-} ]]; then "$docker" builder prune -f >/dev/null; fi
