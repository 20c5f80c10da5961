# The agent service, with PyTorch for CPUs: docker build -f deploy/agent.Dockerfile .
FROM python:3.11.14-slim-bookworm AS build

# Pages or folders where wheels of PyTorch for CPUs are; PyPI's own bring gigabytes of CUDA.
ARG TORCH_WHEELS=https://download.pytorch.org/whl/cpu/torch/
ENV PIP_CONSTRAINT=/source/deploy/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
RUN python -m venv --without-pip /opt/venv

# First what seldom changes, so that a change of our code installs nothing again.
COPY deploy/constraints.txt deploy/
RUN --mount=type=cache,target=/root/.cache/pip \
    PIP_FIND_LINKS="$TORCH_WHEELS" pip --python /opt/venv/bin/python install torch
COPY pyproject.toml ./
COPY agent_service/__init__.py agent_service/
COPY trainer_service/__init__.py trainer_service/
RUN touch README.md
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python install '.[agent,parquet,postgresql,tracing]'
COPY README.md ./
COPY agent_service agent_service
COPY trainer_service trainer_service
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python install --force-reinstall --no-deps .


FROM python:3.11.14-slim-bookworm

RUN install -d -o 10001 -g 10001 /var/lib/agent
COPY --from=build /opt/venv /opt/venv
# Users and their homes are the host's matter; libraries that want one get the temporary folder.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    AGENT_SERVICE_SERVE_LISTEN=0.0.0.0:50051 \
    AGENT_SERVICE_SERVE_STORE=sqlite:////var/lib/agent/agent.db
USER 10001:10001
WORKDIR /var/lib/agent
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["agent-service", "health"]
ENTRYPOINT ["agent-service"]
CMD ["serve"]
