"""Settings: defaults, limits, and every fault in one text."""

from __future__ import annotations

from typing import Any

import pytest

from consumer_keys import config
from consumer_keys.config import SETTINGS, ConfigError, Gateway, Settings, load, role_credential

FAULTS: dict[str, list[str]] = {
    "GATEWAYS": ["=x", "a b=x", "-a=x", "a=x,a=y", "a=x,,b=y", "a" * 65, "网关=x", "a=x,"],
    "KEY_PREFIX": ["c", "C1", "1a", "a" * 9, "a-b", "ck_", "ck\n", "ｃk"],
    "CUSTOM_VALUE_MIN_BITS": ["-1", "257", "1e2", "nan", "inf", "٣", " 1", "1_0", "0x10", "1\n"],
    "CREDENTIAL_CACHE_SECONDS": ["-1", "86401", "five"],
    "SNAPSHOT_POLL_SECONDS": ["-0.1", "3601", "1,5"],
    "SNAPSHOT_MAX_AGE_SECONDS": ["0", "59", "604801"],
    "SNAPSHOT_PREFIX": ["folder", "/folder/", "a//b/", "a b/", "../", "a/../", "./", "a/\n"],
    "AUDIT_PREFIX": ["folder", "../"],
    "CREDENTIAL_PREFIX": ["*", "llm-*", "llm.", "-llm", "_", "llm/", "llm ", "密钥-", "a" * 129, "llm-\n", "${UIN}"],
    "ROOT_SECRET_NAME": ["*", "root-*", "a/b", "-root", "a b", "root\n", "a" * 129],
    "KEY_IN_QUERY": ["True", "1", "yes", "on", " true"],
    "SSM_REQUESTS_PER_SECOND": ["0", "0.05", "10001"],
    "CLOUD_ENDPOINT": [
        "127.0.0.1",
        "https://127.0.0.1:1",
        "http://a:0",
        "a:65536",
        "a:b",
        "http://http://a:1",
        "a:1/b",
    ],
    "COS_BUCKET": ["keys", "keys-", "-1250000000", "Keys-1250000000", "keys-1250000000\n", "keys.x-1250000000"],
    "DATABASE_URL": ["consumer-keys.db", "mysql:/host/db", "oracle://host/db", "SQLITE:///x.db"],
}


def message(environ: dict[str, str], needs: tuple[str, ...] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        load(environ, needs)
    return str(caught.value)


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    settings = load({})
    assert settings.gateways == (Gateway("default", "default"),)
    assert (settings.environment, settings.key_prefix, settings.key_in_query) == ("default", "ck", False)
    assert (settings.custom_value_min_bits, settings.credential_cache_seconds) == (40, 300)
    assert (settings.snapshot_poll_seconds, settings.snapshot_max_age_seconds) == (10, 3600)
    assert (settings.ssm_requests_per_second, settings.snapshot_prefix) == (20, "consumer-keys/")
    assert (settings.root_secret_name, settings.root_secret_version) == ("consumer-keys-root", "v1")
    absent = (settings.database_url, settings.kms_key_id, settings.kms_operator_key_id, settings.cos_bucket)
    assert absent == (None, None, None, None)


@pytest.mark.parametrize("environ", [{}, {"TENCENTCLOUD_RUNENV": "SCF"}], ids=["anywhere", "on SCF"])
def test_what_protects_values_and_operators_is_on_unless_somebody_says_otherwise(environ: dict[str, str]) -> None:
    settings = load(environ)
    assert (settings.clear_values, settings.key_in_query, settings.reveal_enabled) == (False, False, True)
    assert (settings.reveals_per_minute, settings.reveals_per_day) == (5, 50)
    assert settings.auth_failures_per_minute == 20
    assert settings.custom_value_min_bits == 40
    assert settings.credential_prefix == ""


def test_the_list_of_settings_and_the_settings_agree() -> None:
    assert Settings._fields == tuple(setting.name.lower() for setting in SETTINGS)
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_setting_has_a_meaning_and_a_default_that_it_would_accept(setting: config.Setting) -> None:
    assert setting.meaning
    assert setting.name == setting.name.upper()
    optional = Settings.__annotations__[setting.name.lower()]
    assert ("None" in str(optional)) is (setting.default is None)
    if setting.default is not None:
        setting.parse(setting.default)


@pytest.mark.parametrize("text", ["127.0.0.1:9001", "http://127.0.0.1:9001", "http://127.0.0.1:9001/"])
def test_the_local_endpoint_may_have_its_scheme_in_front(text: str) -> None:
    assert load({"CLOUD_ENDPOINT": text}).cloud_endpoint == "127.0.0.1:9001"


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_an_empty_variable_is_an_unset_one(setting: config.Setting) -> None:
    assert load({setting.name: ""}) == load({})


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in FAULTS.items() for text in texts])
def test_a_faulty_value_is_refused_by_name_and_not_repeated(name: str, text: str) -> None:
    fault = message({name: text})
    assert fault.startswith(f"{name} ")
    if len(text.strip()) > 4:  # shorter ones may stand in any sentence
        assert text.strip() not in fault


def test_every_fault_is_reported_at_once() -> None:
    faulty = {name: texts[0] for name, texts in FAULTS.items()}
    fault = message(faulty, ("KMS_KEY_ID", "KMS_OPERATOR_KEY_ID"))
    for name in (*faulty, "KMS_KEY_ID", "KMS_OPERATOR_KEY_ID"):
        assert f"{name} " in fault
    assert len(fault.split("; ")) == len(faulty) + 2


def test_what_a_function_needs_must_be_set() -> None:
    assert message({"COS_BUCKET": ""}, ("COS_BUCKET",)) == "COS_BUCKET is not set"
    assert load({"COS_BUCKET": "b-1250000000"}, ("COS_BUCKET",)).cos_bucket == "b-1250000000"
    assert load({}, ("ROOT_SECRET_NAME",)).root_secret_name == "consumer-keys-root"


@pytest.mark.parametrize("text", ["a", "0", "llm-", "LLM_keys-", "a" * 128])
def test_names_of_secrets_have_the_characters_that_ssm_gives_them(text: str) -> None:
    settings = load({"CREDENTIAL_PREFIX": text, "ROOT_SECRET_NAME": text})
    assert (settings.credential_prefix, settings.root_secret_name) == (text, text)


def test_one_kms_key_for_values_and_operators_is_refused() -> None:
    """Every management role may decrypt under the second; with one key for both it could open values."""
    for second in ("key-one-of-two", "KEY-one-of-two"):
        fault = message({"KMS_KEY_ID": "key-one-of-two", "KMS_OPERATOR_KEY_ID": second})
        assert fault.startswith("KMS_OPERATOR_KEY_ID is KMS_KEY_ID")
        assert "one-of-two" not in fault
    for environ in ({"KMS_KEY_ID": "a", "KMS_OPERATOR_KEY_ID": "b"}, {"KMS_KEY_ID": "a"}, {"KMS_OPERATOR_KEY_ID": "a"}):
        load(environ)


@pytest.mark.parametrize(
    ("snapshot", "audit"),
    [("a/", "a/"), ("a/", "a/b/"), ("a/b/", "a/"), ("", "consumer-keys/heads/"), ("consumer-keys-audit/x/", "")],
)
def test_a_folder_for_snapshots_in_the_one_for_audit_heads_is_refused_and_the_reverse(
    snapshot: str, audit: str
) -> None:
    """The policies give each to other roles: a publisher that writes heads could sign away rows."""
    fault = message({"SNAPSHOT_PREFIX": snapshot, "AUDIT_PREFIX": audit})
    assert fault.startswith("AUDIT_PREFIX must not begin with SNAPSHOT_PREFIX")


def test_folders_beside_each_other_are_taken_however_alike_their_names_are() -> None:
    for snapshot, audit in (("a/", "a-audit/"), ("a/b/", "a/c/"), ("aa/", "a/")):
        settings = load({"SNAPSHOT_PREFIX": snapshot, "AUDIT_PREFIX": audit})
        assert (settings.snapshot_prefix, settings.audit_prefix) == (snapshot, audit)


@pytest.mark.parametrize("url", ["sqlite:///keys.db", "sqlite://", "sqlite+pysqlite:///keys.db"])
def test_sqlite_is_refused_on_scf_and_only_there(url: str) -> None:
    assert "SQLite" in message({"DATABASE_URL": url, "TENCENTCLOUD_RUNENV": "SCF"})
    assert load({"DATABASE_URL": url}).database_url == url
    assert load({"DATABASE_URL": url, "TENCENTCLOUD_RUNENV": "local"}).database_url == url


@pytest.mark.parametrize("url", ["mysql+pymysql://u@h:3306/d", "postgresql+psycopg://u@h/d", "mariadb+pymysql://u@h/d"])
def test_server_databases_are_taken_on_scf(url: str) -> None:
    assert load({"DATABASE_URL": url, "TENCENTCLOUD_RUNENV": "SCF"}).database_url == url


def test_a_password_in_the_database_url_never_shows_in_a_fault() -> None:
    fault = message({"DATABASE_URL": "mssql://user:pa55-of-database@host/db", "KEY_PREFIX": "X"})
    assert "pa55-of-database" not in fault


@pytest.mark.parametrize(
    ("text", "gateways"),
    [
        ("default", [("default", "default")]),
        ("a=First,b=Second gateway", [("a", "First"), ("b", "Second gateway")]),
        (" a= 网关一 , b", [("a", "网关一"), ("b", "b")]),
        ("a=x=y", [("a", "x=y")]),
        ("A-1_b=", [("A-1_b", "A-1_b")]),
    ],
)
def test_gateways_are_id_and_title(text: str, gateways: list[tuple[str, str]]) -> None:
    assert load({"GATEWAYS": text}).gateways == tuple(Gateway(*pair) for pair in gateways)


def test_an_equal_environment_gives_the_same_object() -> None:
    """The settings select the collaborators, so an unchanged environment must not build new ones."""
    assert load({"KEY_PREFIX": "gw", "UNRELATED": "1"}) is load({"KEY_PREFIX": "gw", "UNRELATED": "2"})
    assert hash(load({})) == hash(load({"KEY_PREFIX": "ck"}))


def test_a_faulty_environment_is_faulty_every_time() -> None:
    for _ in range(2):
        message({"KEY_PREFIX": "X"})


def test_the_role_credential_is_read_anew_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = []
    for number in ("1", "2"):
        monkeypatch.setenv("TENCENTCLOUD_SECRETID", f"id{number}")
        monkeypatch.setenv("TENCENTCLOUD_SECRETKEY", f"key{number}")
        monkeypatch.setenv("TENCENTCLOUD_SESSIONTOKEN", f"token{number}")
        answers.append(role_credential())
    assert answers == [("id1", "key1", "token1"), ("id2", "key2", "token2")]
    monkeypatch.setenv("TENCENTCLOUD_SESSIONTOKEN", "")
    assert role_credential() == ("id2", "key2", None)


@pytest.mark.parametrize("name", ["TENCENTCLOUD_SECRETID", "TENCENTCLOUD_SECRETKEY"])
def test_a_missing_role_is_named_without_the_other_half(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("TENCENTCLOUD_SECRETID", "half-one")
    monkeypatch.setenv("TENCENTCLOUD_SECRETKEY", "half-two")
    monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match=name) as caught:
        role_credential()
    assert "half" not in str(caught.value)
