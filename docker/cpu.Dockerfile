# linscore on CPUs:  docker build --file docker/cpu.Dockerfile --tag linscore:cpu .
#                    docker run --rm --volume "$PWD:/work" linscore:cpu score --text my_corpus/
FROM python:3.12-slim
COPY . /src
RUN pip install --no-cache-dir --constraint /src/constraints.txt \
    --extra-index-url https://download.pytorch.org/whl/cpu 'torch==2.13.0+cpu' \
    && pip install --no-cache-dir --constraint /src/constraints.txt \
    '/src[datasets,plots,probe,train,tasks,large,torchmetrics,html]' \
    && rm -r /src
WORKDIR /work
ENTRYPOINT ["linscore"]
