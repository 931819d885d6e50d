# One image for SageMaker, Inference Endpoints and `docker run -p 8080:8080 tgi-heir`. docs/image.md has sizes and
# tests. CUDA comes with torch's wheels, drivers come from the host, and libraries for older drivers from NVIDIA.
#   docker build -t tgi-heir .                            CUDA 12.6: runs on SageMaker's default driver
#   docker build -t tgi-heir --build-arg TORCH=cu130 .    CUDA 13.0: Blackwell; needs a newer InferenceAmiVersion
#   docker build -t tgi-heir --build-arg TORCH=cpu .      CPU
# A release passes the base by digest: --build-arg PYTHON_IMAGE=python@sha256:...
ARG PYTHON_IMAGE=python:3.11.15-slim-bookworm

FROM ${PYTHON_IMAGE} AS packages
ARG TORCH=cu126
# Never install torch from PyPI: its wheel always needs CUDA 13.
ARG TORCH_INDEX=https://download.pytorch.org/whl/${TORCH}
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
COPY requirements/image*.txt /requirements/
# setuptools first: it builds the only source distribution, and nothing unlocked is downloaded. torch's headers and
# tests are removed in the same step, so that no layer contains them. scipy is missing on purpose:
# docs/decisions/0060-no-scipy-in-the-image.md. Only the CPU image compiles kernels, so only it has numba.
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --require-hashes -r /requirements/image-build.txt \
 && /opt/venv/bin/pip install --no-cache-dir --require-hashes --no-deps --no-build-isolation --use-pep517 \
    -r /requirements/image.txt \
 && if [ "${TORCH}" = cpu ]; then \
      /opt/venv/bin/pip install --no-cache-dir --require-hashes --no-deps -r /requirements/image-kernels.txt; \
    fi \
 && /opt/venv/bin/pip install --no-cache-dir --index-url "${TORCH_INDEX}" -r "/requirements/image-${TORCH}.txt" \
 && { /opt/venv/bin/pip check > /tmp/check || true; } \
 && ! grep -v '^sagemaker-inference .* requires scipy,' /tmp/check \
 && /opt/venv/bin/pip install --no-cache-dir --require-hashes --no-deps -r /requirements/image-model.txt \
 && rm -rf /opt/venv/lib/python3.11/site-packages/torch/include /opt/venv/lib/python3.11/site-packages/torch/test \
 && find /opt/venv/lib/python3.11/site-packages/torch/bin -type f ! -name torch_shm_manager -delete

# A stage apart from the rest of the code, so that most edits change neither this layer nor the large one above.
FROM packages AS model
WORKDIR /app
COPY handler/__init__.py handler/prepare.py handler/
COPY handler/seam handler/seam
COPY handler/kernels handler/kernels
COPY handler/linears handler/linears
COPY handler/formats handler/formats
COPY handler/model handler/model
COPY model_memory model_memory
RUN /opt/venv/bin/python -m handler.prepare /opt/heir

# NVIDIA's forward-compatibility libraries, which container/supervisor/cuda_compat.py loads where the host's driver is
# too old: docs/decisions/0106-cuda-compatibility-libraries.md. apt checks NVIDIA's signature with the key of the
# keyring package; nothing is installed.
FROM ${PYTHON_IMAGE} AS compat
ARG TORCH=cu126
ARG CUDA_REPOSITORY=https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2204/x86_64
ARG KEYRING_SHA256=d93190d50b98ad4699ff40f4f7af50f16a76dac3bb8da1eaaf366d47898ff8df
WORKDIR /tmp/compat
RUN mkdir /opt/cuda-compat \
 && case "${TORCH}" in \
      cu126) cuda=12.6 package=cuda-compat-12-6 driver=560.35.05 ;; \
      cu130) cuda=13.0 package=cuda-compat-13-0 driver=580.178.04 ;; \
      *) exit 0 ;; \
    esac \
 && python -c 'import sys, urllib.request; urllib.request.urlretrieve(*sys.argv[1:])' \
    "${CUDA_REPOSITORY}/cuda-keyring_1.1-1_all.deb" keyring.deb \
 && echo "${KEYRING_SHA256}  keyring.deb" > sums \
 && sha256sum --check --strict sums \
 && dpkg --install keyring.deb \
 && apt-get update \
 && apt-get download "${package}=${driver}-*" \
 && dpkg-deb --extract "${package}"_*.deb files \
 && cp -a "files/usr/local/cuda-${cuda}/compat" "/opt/cuda-compat/${cuda}" \
 && cp "files/usr/share/doc/${package}/copyright" "/opt/cuda-compat/${cuda}/" \
 && test -e "/opt/cuda-compat/${cuda}/libcuda.so.1" \
 && rm -rf /tmp/compat/*

FROM ${PYTHON_IMAGE} AS app
COPY container /app/container
COPY handler /app/handler
COPY model_memory /app/model_memory
# A checkout may be readable only to its owner, but the container may run as any user.
RUN chmod -R a+rX /app \
 && python -m compileall -q /app \
 && printf '#!/bin/sh\nexec /opt/venv/bin/python -m container.serve serve "$@"\n' > /usr/local/bin/serve \
 && for name in launcher server benchmark; do \
      printf '#!/bin/sh\nexec /opt/venv/bin/python -m container.tgi_commands text-generation-%s "$@"\n' "${name}" \
        > "/usr/local/bin/text-generation-${name}"; \
    done \
 && chmod 755 /usr/local/bin/serve /usr/local/bin/text-generation-*

FROM ${PYTHON_IMAGE}
ARG PYTHON_IMAGE
ARG TORCH=cu126
ARG VERSION=0.2.0
ARG REVISION=unknown
# The deploy helper reads tgi-heir.torch to choose the host's driver.
LABEL org.opencontainers.image.title="tgi-heir" \
      org.opencontainers.image.description="SageMaker, OpenAI and TGI dialects over any transformers model" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}" \
      tgi-heir.torch="${TORCH}" \
      com.amazonaws.sagemaker.capabilities.accept-bind-to-port="true"
COPY --from=packages /opt/venv /opt/venv
COPY --from=model /opt/heir /opt/venv/share/tgi-heir
COPY --from=app /usr/local/bin/serve /usr/local/bin/
COPY --from=app /usr/local/bin/text-generation-launcher /usr/local/bin/
COPY --from=app /usr/local/bin/text-generation-server /usr/local/bin/
COPY --from=app /usr/local/bin/text-generation-benchmark /usr/local/bin/
COPY --from=compat /opt/cuda-compat /opt/cuda-compat
COPY LICENSE NOTICE /licenses/
COPY --from=app /app /app
# All writes go below /tmp: the root file system and /opt/ml/model may be read-only, and the uid may be any.
# HF_HOME is unset: a mounted /data is the hub's cache then, else it is below XDG_CACHE_HOME.
# NVIDIA's runtime injects the driver only if these variables ask for it.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    CACHE_DIR=/tmp/tgi-heir \
    XDG_CACHE_HOME=/tmp/cache \
    TORCHINDUCTOR_CACHE_DIR=/tmp/torchinductor \
    TRITON_CACHE_DIR=/tmp/triton \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PORT=8080
WORKDIR /app
EXPOSE 8080
# Exec form, so that SIGTERM reaches PID 1. SageMaker appends the argument `serve`.
ENTRYPOINT ["/opt/venv/bin/python", "-m", "container.serve"]
