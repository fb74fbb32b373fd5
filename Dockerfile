# Seedpod with the locked packages; .venv is what `make setup` makes, so nothing is installed later.
#
#   docker build --tag=seedpod .                      # CPU
#   docker build --target=tpu --tag=seedpod-tpu .     # TPU
#   docker run --rm -it --volume=seedpod-runs:/seedpod/runs seedpod make demo

FROM python:3.12-slim AS base
RUN apt-get update && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /seedpod
# The cache of compiled programs is kept with the runs.
ENV PATH=/seedpod/.venv/bin:$PATH PYTHONPATH=/seedpod XDG_CACHE_HOME=/seedpod/runs/.cache

FROM base AS packages
ENV PIP_CONSTRAINT=/seedpod/tpu/launch/requirements.txt PIP_NO_CACHE_DIR=1
COPY *.py pyproject.toml ./
COPY scripts scripts
COPY tpu/launch/requirements.txt tpu/launch/

FROM packages AS packages-tpu
RUN EXTRAS=tpu sh scripts/setup.sh

FROM packages AS packages-cpu
RUN EXTRAS=web sh scripts/setup.sh

# The user is root, to whom the TPU's devices and a mounted bucket belong.
FROM base AS tpu
ENV EXTRAS=tpu
COPY --from=packages-tpu /seedpod/.venv .venv
COPY . .
RUN python -m compileall -q -x .venv .

FROM base AS cpu
ENV EXTRAS=web
COPY --from=packages-cpu /seedpod/.venv .venv
COPY . .
RUN python -m compileall -q -x .venv . \
    && useradd --create-home --uid=1000 seedpod && install --directory --owner=seedpod runs
# The number, by which Kubernetes sees that it is not root.
USER 1000
