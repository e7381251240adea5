# Search, train, export and measure, on a machine with Docker:
#   docker build -t bmtas .
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" bmtas search --budget 9GMAdds
# The GPU's runtimes instead (never both in one image), with the NVIDIA Container Toolkit on the machine:
#   docker build -t bmtas-gpu --build-arg EXTRA=gpu --build-arg CONSTRAINTS=/dev/null .
#   docker run --rm --gpus all --ipc=host -v "$PWD:/work" --user "$(id -u):$(id -g)" bmtas-gpu bench
FROM python:3.11-slim

# `host` or `gpu`. constraints.txt pins what is tested, which is the CPU; for `gpu` it is left out.
ARG EXTRA=host
ARG CONSTRAINTS=constraints.txt

WORKDIR /opt/bmtas
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY bmtas bmtas
COPY costs costs
COPY export export
COPY cli cli
RUN pip install --no-cache-dir -c "${CONSTRAINTS}" ".[${EXTRA}]"

# Whoever runs it, in the folder that is mounted; caches and weights go to a place that any user may write.
ENV HOME=/tmp XDG_CACHE_HOME=/tmp/cache TORCH_HOME=/tmp/cache/torch
WORKDIR /work
ENTRYPOINT ["bmtas"]
CMD ["--help"]
