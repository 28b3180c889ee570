# Commands of hagan3d in a container.
#   CPU:   docker build -t hagan3d .
#   CUDA:  docker build -t hagan3d:cuda --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 .
# A base with nvcc gets the CUDA operators too; torch brings its own CUDA libraries.
ARG BASE=ubuntu:24.04
FROM ${BASE}
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends g++ python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/hagan3d
ENV PATH=/opt/hagan3d/bin:$PATH
WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt setuptools ninja torch
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY csrc csrc
COPY configs configs
COPY hagan3d hagan3d
RUN pip install --no-cache-dir --no-build-isolation -c constraints.txt . && rm -rf /src/build
WORKDIR /data
ENTRYPOINT ["hagan3d"]
CMD ["--help"]
