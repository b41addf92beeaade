# linscore on NVIDIA GPUs:  docker build --file docker/cuda.Dockerfile --tag linscore:cuda .
#                           docker run --rm --gpus all --volume "$PWD:/work" linscore:cuda score --text my_corpus/
# PyPI's torch brings CUDA, the host its driver; Triton compiles a launcher of its own with gcc.
FROM python:3.12-slim
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -r /var/lib/apt/lists/*
COPY . /src
RUN pip install --no-cache-dir --constraint /src/constraints.txt '/src[all]' && rm -r /src
WORKDIR /work
ENTRYPOINT ["linscore"]
