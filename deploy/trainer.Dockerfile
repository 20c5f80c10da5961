# The trainer service, for GPUs unless it is told otherwise: docker build -f deploy/trainer.Dockerfile .
FROM python:3.11.14-slim-bookworm AS build

# Pages or folders where wheels of PyTorch and torchvision are. None: PyPI's, which are for CUDA.
ARG TORCH_WHEELS=""
ENV PIP_CONSTRAINT=/source/deploy/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
RUN python -m venv --without-pip /opt/venv

# First what seldom changes, so that a change of our code installs nothing again.
COPY deploy/constraints.txt deploy/
RUN --mount=type=cache,target=/root/.cache/pip \
    if [ -n "$TORCH_WHEELS" ]; then export PIP_FIND_LINKS="$TORCH_WHEELS"; fi; \
    pip --python /opt/venv/bin/python install torch torchvision
COPY pyproject.toml ./
COPY agent_service/__init__.py agent_service/
COPY trainer_service/__init__.py trainer_service/
RUN touch README.md
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python install '.[trainer,tracing]'
COPY README.md ./
COPY agent_service agent_service
COPY trainer_service trainer_service
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python install --force-reinstall --no-deps .


FROM python:3.11.14-slim-bookworm

RUN install -d -o 10001 -g 10001 /var/lib/trainer
COPY --from=build /opt/venv /opt/venv
# Weights that are fetched once stay with the runs.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    TORCH_HOME=/var/lib/trainer/torch \
    TRAINER_SERVICE_SERVE_LISTEN=0.0.0.0:50052 \
    TRAINER_SERVICE_SERVE_RUNS=/var/lib/trainer/trainer.db \
    TRAINER_SERVICE_SERVE_DATA=/data
USER 10001:10001
WORKDIR /var/lib/trainer
EXPOSE 50052 9465
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["trainer-service", "health"]
ENTRYPOINT ["trainer-service"]
CMD ["serve"]
