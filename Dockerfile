# Two images from one file: `web` (no PyTorch) and `worker` (PyTorch with CUDA, several GB). docs/production.md.
# Packages come before the code, so that a change of code rebuilds only the last layers.

FROM node:24-slim AS assets
WORKDIR /app/frontend
COPY frontend/package.json frontend/package-lock.json frontend/.npmrc ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY frontend/build.mjs ./
COPY frontend/static static
RUN node build.mjs


FROM python:3.11-slim AS python
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
ENV EYEPIECE_DATA=/data HF_HOME=/data/huggingface
RUN useradd --uid 10001 --create-home eyepiece && install --directory --owner eyepiece --group eyepiece /data
WORKDIR /app
COPY pyproject.toml constraints.txt ./
COPY bin/requirements.py bin/


FROM python AS web
# Letters of pictures of features (backend/web/card_fonts.py); Pillow's own font knows little more than ASCII.
RUN apt-get update && apt-get install --yes --no-install-recommends fonts-dejavu-core && rm -rf /var/lib/apt/lists/*
# psutil: the `eyepiece` command, which migrates, imports it.
RUN python bin/requirements.py web s3 > /tmp/wanted.txt \
    && pip install -c constraints.txt -r /tmp/wanted.txt psutil
COPY . .
COPY --from=assets /app/frontend/dist frontend/dist
# Editable: templates, assets and migrations are found beside the code.
RUN pip install --no-deps --editable .
USER eyepiece
VOLUME /data
EXPOSE 3000
CMD ["uvicorn", "backend.web.app:create_app", "--factory", "--host", "0.0.0.0", "--port", "3000", "--no-proxy-headers"]


FROM python AS worker
# Another PyTorch than the pinned one, for an older driver or the CPU: --build-arg TORCH=2.11.0,
# --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG TORCH=
ARG PIP_EXTRA_INDEX_URL=
RUN sed -i "s/^torch==.*/torch==${TORCH:-$(sed -n 's/^torch==//p' constraints.txt)}/" constraints.txt \
    && python bin/requirements.py worker s3 > /tmp/wanted.txt \
    && pip install -c constraints.txt -r /tmp/wanted.txt
COPY . .
RUN pip install --no-deps --editable .
USER eyepiece
VOLUME /data
CMD ["python", "-m", "workers.celery_app"]
