"""URLs that only pages use: where forms go and what they lead to. Everything else is in `backend/names.py`."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from urllib.parse import quote, urlencode

from backend import names
from backend.services.activation_index import ActivationQuery, CofiringQuery, PairQuery
from backend.services.features import FeatureQuery
from backend.web import text_query
from backend.web.text_query import TextQuery

_DEFAULTS, _SEARCH = FeatureQuery(), TextQuery()
_ACTIVATIONS, _COFIRING, _PAIR = ActivationQuery(), CofiringQuery(), PairQuery()

Query = ActivationQuery | CofiringQuery | PairQuery


def features_url(model: str, source: str, query: FeatureQuery) -> str:
    """A source's page showing what `query` says."""
    return names.source_url(model, source, **_parameters(query))


def look_api_url(model: str, source: str) -> str:
    """The quick look at a source as JSON."""
    return f"/api/source{names.source_url(model, source)}/look"


def features_api_url(model: str, source: str, query: FeatureQuery) -> str:
    """The same table as JSON."""
    return "/api/features" + names.source_url(model, source, **_parameters(query))


def index_url(model: str, source: str) -> str:
    """Where the form for one feature or two sends their indexes."""
    return f"{names.source_url(model, source)}/index"


def activations_url(model: str, source: str, index: int, query: ActivationQuery = _ACTIVATIONS) -> str:
    """All firings of a feature, as `query` says."""
    return _with(f"{names.feature_url(model, source, index)}/activations", query, _ACTIVATIONS)


def cofiring_url(model: str, source: str, index: int, query: CofiringQuery = _COFIRING) -> str:
    """The features that fire with one, as `query` says."""
    return _with(f"{names.feature_url(model, source, index)}/cofiring", query, _COFIRING)


def pair_url(model: str, source: str, index: int, other: int, query: PairQuery = _PAIR) -> str:
    """Contexts of two features, as `query` says."""
    return _with(f"{names.feature_url(model, source, index)}/pair/{other}", query, _PAIR)


def scan_url(model: str, source: str, index: int, asked: Mapping[str, str | float] | None = None) -> str:
    """The injection scan of a feature, as `asked` says."""
    path = f"{names.feature_url(model, source, index)}/scan"
    return f"{path}?{urlencode(asked)}" if asked else path


def scan_form_url(model: str, source: str, index: int) -> str:
    """Where the form of an injection scan leads: to what was found."""
    return f"{scan_url(model, source, index)}#scan"


def scan_csv_url(model: str, source: str, index: int, asked: Mapping[str, str | float]) -> str:
    """The same scan as CSV."""
    return f"{names.feature_url(model, source, index)}/scan.csv?{urlencode(asked)}"


def index_api_url(page_url: str) -> str:
    """The answer one of the three pages shows, as JSON."""
    return f"/api/index{page_url}"


def table_api_url(model: str) -> str:
    """What the name of a source is put behind for `features_api_url`."""
    return f"/api/features{names.model_url(model)}"


def steer_api_url() -> str:
    """Where a text is gone on with, steered and not."""
    return "/api/steer"


def steer_chat_api_url() -> str:
    """Where a chat is answered, steered and not."""
    return "/api/steer-chat"


def graph_features_api_url() -> str:
    """What is known here of the features of a graph."""
    return "/api/graph/features"


def subgraphs_api_url() -> str:
    """What the names of the routes for saved states of a graph are put behind."""
    return "/api/graph/subgraph"


def graph_delete_url(model: str, slug: str) -> str:
    """Where the form that deletes a graph leads."""
    return f"{names.graph_url(model, slug)}/delete"


def random_feature_url(model: str, source: str) -> str:
    """Leads to some feature that fires."""
    return f"{names.source_url(model, source)}/random"


def find_url(model: str, source: str) -> str:
    """Where the box for an index or a token sends its text."""
    return f"{names.source_url(model, source)}/find"


def try_url(model: str, source: str, index: int, texts: Iterable[str] = ()) -> str:
    """What the live worker says of a feature on texts."""
    return _with_texts(f"{names.feature_url(model, source, index)}/try", texts)


def tried_url(model: str, source: str, index: int, texts: Iterable[str]) -> str:
    """A feature's page, which tries the texts as it opens."""
    return _with_texts(names.feature_url(model, source, index), texts)


def text_search_url(model: str, query: TextQuery = _SEARCH) -> str:
    """The features of a model that fire on a text, as `query` says."""
    return _with_query(f"{names.model_url(model)}/search", query)


def text_results_url(model: str, query: TextQuery = _SEARCH) -> str:
    """The same page with its results in it: its answer waits for the live worker's."""
    return _with_query(f"{names.model_url(model)}/search/results", query)


def source_search_url(model: str, source: str) -> str:
    """The text search over one source."""
    return text_search_url(model, TextQuery(sources=(source,)))


def explain_url(model: str, source: str, index: int) -> str:
    """Where the form for a new explanation of a feature leads."""
    return f"{names.feature_url(model, source, index)}/explanations"


def explanation_url(explanation_id: str, what: str) -> str:
    """Changes an explanation: `edit`, `delete`, `vote`, `unvote`."""
    return f"/explanations/{quote(explanation_id, safe='')}/{what}"


def explanations_export_url(model: str, source: str, file_format: str) -> str:
    """A source's explanations as a file."""
    return f"/api/explanation/export?{urlencode({'modelId': model, 'saeId': source, 'format': file_format})}"


def lists_url() -> str:
    """The reader's lists and bookmarks, and lists for everybody."""
    return "/lists"


def list_page_url(list_id: str, page: int, is_embedded: bool) -> str:
    """A further page of a list."""
    query = ({"page": page} if page > 1 else {}) | ({"embed": "true"} if is_embedded else {})
    return names.list_url(list_id) + (f"?{urlencode(query)}" if query else "")


def list_change_url(list_id: str, what: str) -> str:
    """Changes a list: `edit`, `add`, `describe`, `remove`, `delete`, `comments`."""
    return f"{names.list_url(list_id)}/{what}"


def list_comment_delete_url(list_id: str, comment_id: str) -> str:
    """Deletes a comment on a list."""
    return list_change_url(list_id, f"comments/{comment_id}/delete")


def list_export_url(list_id: str, format: str) -> str:
    """A list as a file."""
    return f"/api{names.list_url(list_id)}/export?{urlencode({'format': format})}"


def quick_list_url() -> str:
    """A list that is not saved; a form sent there saves it."""
    return "/quick-list"


def note_url(model: str, source: str, index: int, what: str) -> str:
    """Keeps or says something of a feature: `bookmark`, `lists`, `comments`."""
    return f"{names.feature_url(model, source, index)}/{what}"


def comment_delete_url(model: str, source: str, index: int, comment_id: str) -> str:
    """Deletes a comment on a feature."""
    return note_url(model, source, index, f"comments/{comment_id}/delete")


def card_url(model: str, source: str, index: int) -> str:
    """A feature as a picture."""
    return f"{names.feature_url(model, source, index)}/card.png"


def oembed_url(url: str) -> str:
    """How to embed the page at `url`, which names the site."""
    return f"/oembed?{urlencode({'url': url, 'format': 'json'})}"


def definition_url(term: str) -> str:
    """What a number means."""
    return f"/definitions#{term}"


def definitions_url() -> str:
    """What every number means."""
    return "/definitions"


def add_url() -> str:
    """Where an SAE is handed over."""
    return "/add"


def import_url() -> str:
    """Where dashboards are handed over that another tool made."""
    return "/import"


def imports_api_url() -> str:
    """Where dashboards are imported."""
    return "/api/imports"


def export_api_url(model: str, source: str, format: str = "neuronpedia") -> str:
    """A source's dashboards as a zip of that format."""
    query = "" if format == "neuronpedia" else f"?{urlencode({'format': format})}"
    return f"/api/export{names.source_url(model, source)}{query}"


def uploads_api_url() -> str:
    """Where files are sent to."""
    return "/api/uploads"


def sources_api_url() -> str:
    """Where SAEs are hosted."""
    return "/api/sources"


def jobs_url() -> str:
    """All jobs."""
    return "/jobs"


def job_progress_url(job_id: int) -> str:
    """The part of a job's page that changes."""
    return f"{names.job_url(job_id)}/progress"


def job_cancel_url(job_id: int) -> str:
    """Cancels a job."""
    return f"{names.job_url(job_id)}/cancel"


def job_retry_url(job_id: int) -> str:
    """Starts a failed or cancelled job again."""
    return f"{names.job_url(job_id)}/retry"


def job_api_url(job_id: int) -> str:
    """A job as JSON."""
    return f"/api{names.job_url(job_id)}"


def visibility_url(model: str, source: str) -> str:
    """Where the form for who may see a source leads."""
    return f"{names.source_url(model, source)}/visibility"


def rerun_url(model: str, source: str) -> str:
    """Asks how to compute a source again, and where the answer goes."""
    return f"{names.source_url(model, source)}/rerun"


def source_delete_url(model: str, source: str) -> str:
    """Asks whether to delete a source, and where the answer goes."""
    return f"{names.source_url(model, source)}/delete"


def sign_in_url(then: str = "/") -> str:
    """Signs in, and leads on to `then`."""
    return "/sign-in" if then == "/" else f"/sign-in?{urlencode({'next': then})}"


def sign_out_url() -> str:
    """Signs out."""
    return "/sign-out"


def account_url(what: str = "") -> str:
    """The reader's own account, or what a form changes of it: `password`, `keys`, `sign-ins/others/end`."""
    return f"/account/{what}" if what else "/account"


def key_revoke_url(key_id: int) -> str:
    """Revokes an API key."""
    return account_url(f"keys/{key_id}/revoke")


def sign_in_end_url(sign_in_id: int) -> str:
    """Signs out in another browser."""
    return account_url(f"sign-ins/{sign_in_id}/end")


def admin_url() -> str:
    """Everything there is, for admins."""
    return "/admin"


def accounts_url() -> str:
    """Where the form for a new account leads."""
    return "/admin/accounts"


def account_admin_url(account_id: int, what: str) -> str:
    """Changes an account: `link`, `disable`, `enable`, `admin`, `quota`."""
    return f"/admin/accounts/{account_id}/{what}"


def _parameters(query: FeatureQuery) -> dict[str, str | int | float | None]:
    """As the API names them; defaults are left out, so that equal views have equal URLs."""
    given = {key: value for key, value in asdict(query).items() if value != getattr(_DEFAULTS, key)}
    renamed = {"is_descending": "descending"}
    return {renamed.get(key, key): int(value) if value is True else value for key, value in given.items()}


def _with_texts(path: str, texts: Iterable[str]) -> str:
    given = [("text", text) for text in texts]
    return f"{path}?{urlencode(given)}" if given else path


def _with_query(path: str, query: TextQuery) -> str:
    given = text_query.parameters(query)
    return f"{path}?{urlencode(given)}" if given else path


def _with(path: str, query: Query, defaults: Query) -> str:
    """Defaults are left out, so that equal views have equal URLs."""
    plain = asdict(defaults)
    given = {key: value for key, value in asdict(query).items() if value != plain[key]}
    return f"{path}?{urlencode(given)}" if given else path
