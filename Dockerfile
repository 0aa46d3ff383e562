# The consumer and the demo. Nothing is downloaded that requirements/local.txt does not name with its hash.
FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/runwire
ENV PATH=/opt/runwire/bin:$PATH
WORKDIR /source
COPY requirements/local.txt requirements/
RUN pip install --require-hashes -r requirements/local.txt
COPY . .
RUN pip install --no-deps --no-build-isolation .

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin runwire \
    && install -d -o runwire -g runwire -m 0700 /data
COPY --from=build /opt/runwire /opt/runwire
# The port is published by whoever runs the container: inside, loopback would hide it from the others.
ENV PATH=/opt/runwire/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RUNWIRE_HOME=/data \
    RUNWIRE_HOST=0.0.0.0
USER runwire
WORKDIR /data
VOLUME /data
EXPOSE 8470
CMD ["runwire", "up"]
