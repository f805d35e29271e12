"""A thousand malformed uploads: each is refused with a reason or was harmless, and the host is as it was."""

import sys
from collections import Counter
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests import malformed
from tests.malformed import Case

pytestmark = pytest.mark.slow

N = 1_000
SEED = 20_261_121
DECLARED = {"hook_point": malformed.HOOK_POINT}


def send(api, case: Case):
    """The answer to the last request of an upload, and all answers' statuses."""
    if case.archive:
        content = case.packed or malformed.packed(case.files, case.archive)
        answer = api.post(f"uploads/whole?name=upload.{case.archive}", content=content)
        return answer, [answer.status_code]
    listed = [{"name": name, "size": len(data)} for name, data in case.files.items()]
    answer = api.post("uploads", json={"files": listed})
    statuses = [answer.status_code]
    if answer.status_code != 200:
        return answer, statuses
    upload_id = answer.json()["id"]
    for name, data in case.files.items():
        sent = api.patch(f"uploads/{upload_id}/files/{name}", content=data, headers={"Upload-Offset": "0"})
        statuses.append(sent.status_code)
    answer = api.post(f"uploads/{upload_id}/complete", json={})
    return answer, [*statuses, answer.status_code]


def tree(folder: Path, *, but: tuple[Path, ...]) -> dict[Path, int]:
    return {
        path: path.stat().st_size for path in folder.rglob("*") if not any(path.is_relative_to(other) for other in but)
    }


@pytest.fixture
def api(app):
    """What a server answers, also where a handler fails."""
    with TestClient(app, base_url="http://localhost/api/", raise_server_exceptions=False) as client:
        yield client


def test_a_thousand_malformed_uploads_do_no_harm(app, api, tmp_path):
    canary = tmp_path / "canary"
    own = app.state.settings.data / "uploads", app.state.settings.data / "blobs"
    for folder in own:
        folder.mkdir(parents=True)
    before = tree(tmp_path, but=own)
    kinds, wrong = Counter(), []
    for case in malformed.cases(N, seed=SEED, canary=canary):
        answer, statuses = send(api, case)
        body = answer.json()
        if max(statuses) >= 500 or canary.exists():
            wrong.append(f"{case.what}: {statuses} {answer.text[:300]}")
            canary.unlink(missing_ok=True)
        elif answer.status_code == 200:
            kinds["harmless"] += 1
        elif not (400 <= answer.status_code < 500 and len(body["message"]) > 20):
            wrong.append(f"{case.what}: {answer.status_code} without a reason: {answer.text[:300]}")
        else:
            kinds["refused"] += 1
    assert not wrong, f"{len(wrong)} of {N}:\n" + "\n".join(wrong[:20])
    assert tree(tmp_path, but=own) == before, "nothing outside the upload area"
    assert all(path.name in ("uploads", "blobs") for path in app.state.settings.data.iterdir())
    assert kinds["refused"] > N / 2
    assert kinds["refused"] + kinds["harmless"] == N
    sys.stdout.write(
        f"{N} malformed uploads: {kinds['refused']} refused, {kinds['harmless']} whose mutation was harmless\n"
    )
    good, _ = send(api, Case("good", malformed.BASES["standard"]()))
    assert good.status_code == 200, good.text
    assert good.json()["found"][0]["d_sae"] == malformed.D_SAE


@pytest.mark.parametrize("name", ["standard", "topk", "jumprelu", "gated", "flat_saelens"])
def test_what_the_fuzzer_damages_is_good_to_begin_with(api, name):
    answer, _ = send(api, Case(name, malformed.BASES[name]()))
    assert answer.status_code == 200, answer.text
