# Images of the task service. Targets: `service` (API, worker, migrate) and `operator`.
#
#   docker build --target service  -t task-service .
#   docker build --target operator -t task-operator .
#
# BASE_IMAGE: any Debian-based image with Python 3.11 or newer.
# HELM_IMAGE: an image with helm at /out/helm; by default, the next stage builds it from source.
ARG BASE_IMAGE=docker.io/library/python:3.13-slim-trixie
ARG GO_IMAGE=docker.io/library/golang:1.26-trixie
ARG HELM_IMAGE=helm-build

FROM ${GO_IMAGE} AS helm-build
RUN GOBIN=/out CGO_ENABLED=0 go install -trimpath -ldflags="-s -w" helm.sh/helm/v4/cmd/helm@v4.3.1

FROM ${HELM_IMAGE} AS helm

# Two environments: /build contains pip and the build backend and is not copied; /app/venv has no pip and
# is copied into the images.
FROM ${BASE_IMAGE} AS build
WORKDIR /src
COPY requirements/build.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /build \
 && /build/bin/pip install --quiet --require-hashes -r requirements/build.txt \
 && python3 -m venv --without-pip /app/venv

# Dependencies: one layer per image, rebuilt only when its lock changes. Bytecode is compiled here because
# the images run read-only. It is marked as unchecked, which saves work at every start.
FROM build AS service-dependencies
COPY requirements/service.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    /build/bin/pip --python /app/venv/bin/python install --quiet --no-compile --require-hashes -r requirements/service.txt \
 && /app/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /app/venv/lib

FROM build AS operator-dependencies
COPY requirements/operator.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    /build/bin/pip --python /app/venv/bin/python install --quiet --no-compile --require-hashes -r requirements/operator.txt \
 && /app/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /app/venv/lib

# The project: a wheel, installed under /project with the paths of /app/venv, so that a change of the
# source changes only one small layer.
FROM build AS project
COPY pyproject.toml README.md LICENSE* ./
COPY service service
COPY operator operator
RUN /build/bin/pip wheel --quiet --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist . \
 && /build/bin/pip --python /app/venv/bin/python install --quiet --no-compile --no-deps --no-warn-script-location --root /project /dist/*.whl \
 && /app/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash -s /project /project

# Python runs as process 1. It waits for all its child processes, an OOM kill hits the process that
# Kubernetes reports on, and signals need no forwarding. The commands handle SIGTERM from their first line
# on, because process 1 has no default action for it. HOME is the only writable directory, an emptyDir in
# the cluster.
FROM ${BASE_IMAGE} AS runtime
ENV PATH=/app/venv/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
USER 10001:10001

# The last layers are those that change most often.
FROM runtime AS operator
EXPOSE 8082
ENTRYPOINT ["task-operator"]
CMD ["run"]
COPY --from=helm /out/helm /usr/local/bin/helm
COPY --from=operator-dependencies /app/venv /app/venv
COPY charts/task-service /app/charts/task-service
COPY --from=project /project /
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="task-operator" \
      org.opencontainers.image.description="Kubernetes operator for the task service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"

FROM runtime AS service
EXPOSE 8000 8081
ENTRYPOINT ["task-service"]
CMD ["serve"]
COPY --from=service-dependencies /app/venv /app/venv
COPY --from=project /project /
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="task-service" \
      org.opencontainers.image.description="Task service: API, workers and migrations" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
