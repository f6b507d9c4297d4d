"""COS through the official SDK over HTTP: objects, conditions, listings and refusals."""

from __future__ import annotations

import hashlib
import io
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tencent_emulator.cloud import Cloud, CloudError
from tencent_emulator.cos_http import STATUSES
from tencent_emulator.crc import crc64, from_xz_stream
from tencent_emulator.pytest_plugin import TestClock

if TYPE_CHECKING:
    from tests.emulator.conftest import Raw
else:
    Raw = Any


def refusal(call: Any, **members: Any) -> tuple[str, int]:
    """Code and status of the SDK's exception; its texts must have been understood."""
    from qcloud_cos import CosServiceError

    with pytest.raises(CosServiceError) as caught:
        call(**members)
    error = caught.value
    assert error.get_request_id()
    return str(error.get_error_code()), int(error.get_status_code())


def read(cos_client: Any, bucket: str, key: str, **members: Any) -> bytes:
    return bytes(cos_client.get_object(Bucket=bucket, Key=key, **members)["Body"].get_raw_stream().read())


@pytest.mark.parametrize("key", ["snap/CURRENT", "dir/测试 a+b.json", "a//b", "./a", "x%2Fy", "a?b&c=d#e", "~!*'()"])
def test_an_object_comes_back_under_any_key(cos_client: Any, cos_bucket: str, tencent_cloud: Cloud, key: str) -> None:
    data = bytes(range(256)) * 9
    put = cos_client.put_object(Bucket=cos_bucket, Key=key, Body=data)
    assert put["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
    assert put["x-cos-hash-crc64ecma"] == str(crc64(data))
    assert put["x-cos-request-id"]
    assert read(cos_client, cos_bucket, key) == data
    assert tencent_cloud.cos.list_objects(cos_bucket) == [key]


def test_a_key_may_begin_with_a_slash(cos_bucket: str, raw: Raw, sign_cos: Any, tencent_clock: TestClock) -> None:
    host = f"{cos_bucket}.cos.ap-guangzhou.myqcloud.com"
    span = "1800000000;1800000300"
    for method, body in (("PUT", b"data"), ("GET", b"")):
        headers = {"Host": host}
        headers["Authorization"] = sign_cos(method, "/leading", headers, span)
        response, text = raw.send(method, "//leading", headers, body)
        assert response.status == 200, text
    assert text == b"data"


def test_an_empty_object_is_an_object(cos_client: Any, cos_bucket: str) -> None:
    put = cos_client.put_object(Bucket=cos_bucket, Key="empty", Body=b"")
    assert put["x-cos-hash-crc64ecma"] == "0"
    assert cos_client.head_object(Bucket=cos_bucket, Key="empty")["Content-Length"] == "0"


def test_a_later_put_wins_whatever_if_match_says(cos_client: Any, cos_bucket: str) -> None:
    cos_client.put_object(Bucket=cos_bucket, Key="k", Body=b"1")
    cos_client.put_object(Bucket=cos_bucket, Key="k", Body=b"2", IfMatch='"something else"')
    assert read(cos_client, cos_bucket, "k") == b"2"


def test_forbid_overwrite_keeps_the_first_object(cos_client: Any, cos_bucket: str) -> None:
    once = {"Bucket": cos_bucket, "Key": "k", "Metadata": {"x-cos-forbid-overwrite": "true"}}
    cos_client.put_object(Body=b"1", **once)
    assert refusal(cos_client.put_object, Body=b"2", **once) == ("FileAlreadyExists", 409)
    assert read(cos_client, cos_bucket, "k") == b"1"


def test_metadata_and_standard_headers_come_back(cos_client: Any, cos_bucket: str) -> None:
    cos_client.put_object(
        Bucket=cos_bucket,
        Key="k",
        Body=b"x",
        ContentType="application/json",
        CacheControl="no-store",
        ServerSideEncryption="cos/kms",
        SSEKMSKeyId="key",
        Metadata={"x-cos-meta-gen": "7"},
    )
    head = cos_client.head_object(Bucket=cos_bucket, Key="k")
    assert head["Content-Type"] == "application/json"
    assert head["Cache-Control"] == "no-store"
    assert head["x-cos-meta-gen"] == "7"
    assert head["x-cos-server-side-encryption"] == "cos/kms"
    overridden = cos_client.get_object(Bucket=cos_bucket, Key="k", ResponseContentType="text/plain")
    overridden["Body"].get_raw_stream().read()
    assert overridden["Content-Type"] == "text/plain"


def test_content_md5_is_checked(cos_client: Any, cos_bucket: str, tencent_cloud: Cloud) -> None:
    cos_client.put_object(Bucket=cos_bucket, Key="k", Body=b"x", EnableMD5=True)
    target = {"Bucket": cos_bucket, "Key": "bad", "Body": b"x"}
    assert refusal(cos_client.put_object, ContentMD5="XUFAKrxLKna5cZ2REBfFkg==", **target) == ("BadDigest", 400)
    assert refusal(cos_client.put_object, ContentMD5="short", **target) == ("InvalidDigest", 400)
    assert tencent_cloud.cos.list_objects(cos_bucket) == ["k"]


@pytest.mark.parametrize(
    ("asked", "got", "span"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=5-99", b"56789", "bytes 5-9/10"),
        ("bytes=-99", b"0123456789", "bytes 0-9/10"),
    ],
)
def test_a_range_is_served_with_206(cos_client: Any, cos_bucket: str, asked: str, got: bytes, span: str) -> None:
    cos_client.put_object(Bucket=cos_bucket, Key="k", Body=b"0123456789")
    reply = cos_client.get_object(Bucket=cos_bucket, Key="k", Range=asked)
    assert reply["Body"].get_raw_stream().read() == got
    assert reply["Content-Range"] == span


@pytest.mark.parametrize("asked", ["bytes=3-1", "bytes=0-1,3-4", "items=0-1", "bytes=-", "nonsense"])
def test_a_range_that_makes_no_sense_is_ignored(cos_client: Any, cos_bucket: str, asked: str) -> None:
    cos_client.put_object(Bucket=cos_bucket, Key="k", Body=b"0123456789")
    assert read(cos_client, cos_bucket, "k", Range=asked) == b"0123456789"


def test_a_range_behind_the_end_is_refused(cos_client: Any, cos_bucket: str) -> None:
    cos_client.put_object(Bucket=cos_bucket, Key="k", Body=b"0123456789")
    for asked in ("bytes=10-", "bytes=-0"):
        assert refusal(cos_client.get_object, Bucket=cos_bucket, Key="k", Range=asked) == ("InvalidRange", 416)


def test_conditions_on_the_etag(cos_client: Any, cos_bucket: str) -> None:
    etag = cos_client.put_object(Bucket=cos_bucket, Key="k", Body=b"x")["ETag"]
    target = {"Bucket": cos_bucket, "Key": "k"}
    assert read(cos_client, cos_bucket, "k", IfMatch=etag) == b"x"
    assert refusal(cos_client.get_object, IfMatch='"other"', **target) == ("PreconditionFailed", 412)
    assert read(cos_client, cos_bucket, "k", IfNoneMatch='"other"') == b"x"
    unchanged = cos_client.head_object(IfNoneMatch=etag, **target)
    assert unchanged["ETag"] == etag
    assert "Content-Type" not in unchanged


def test_conditions_on_the_time(cos_client: Any, cos_bucket: str, tencent_clock: TestClock) -> None:
    cos_client.put_object(Bucket=cos_bucket, Key="k", Body=b"x")
    target = {"Bucket": cos_bucket, "Key": "k"}
    at = formatdate(tencent_clock.now(), usegmt=True)
    earlier = formatdate(tencent_clock.now() - 1, usegmt=True)
    assert read(cos_client, cos_bucket, "k", IfModifiedSince=earlier, IfUnmodifiedSince=at) == b"x"
    assert "Content-Type" not in cos_client.head_object(IfModifiedSince=at, **target)
    assert refusal(cos_client.get_object, IfUnmodifiedSince=earlier, **target) == ("PreconditionFailed", 412)
    for nonsense in ({"IfModifiedSince": "soon"}, {"IfUnmodifiedSince": "soon"}):
        assert read(cos_client, cos_bucket, "k", **nonsense) == b"x"


def test_a_304_comes_with_or_without_a_length_and_the_sdk_reads_them_differently(
    cos_client: Any, cos_bucket: str, tencent_cloud: Cloud
) -> None:
    etag = cos_client.put_object(Bucket=cos_bucket, Key="k", Body=b"x")["ETag"]
    with pytest.raises(OSError, match="create StreamBody failed"):
        cos_client.get_object(Bucket=cos_bucket, Key="k", IfNoneMatch=etag)
    tencent_cloud.cos.not_modified_length = True
    assert read(cos_client, cos_bucket, "k", IfNoneMatch=etag) == b""
    tencent_cloud.cos.not_modified_length = False
    assert read(cos_client, cos_bucket, "k") == b"x"


def test_missing_things_have_their_own_codes(cos_client: Any, cos_bucket: str) -> None:
    assert refusal(cos_client.get_object, Bucket=cos_bucket, Key="k") == ("NoSuchKey", 404)
    assert refusal(cos_client.head_object, Bucket=cos_bucket, Key="k") == ("NoSuchResource", 404)
    nowhere = "nowhere-1250000000"
    for call, members in (
        (cos_client.get_object, {"Key": "k"}),
        (cos_client.put_object, {"Key": "k", "Body": b"x"}),
        (cos_client.delete_object, {"Key": "k"}),
        (cos_client.list_objects, {}),
    ):
        assert refusal(call, Bucket=nowhere, **members) == ("NoSuchBucket", 404)
    assert not cos_client.bucket_exists(Bucket=nowhere)
    assert not cos_client.object_exists(Bucket=cos_bucket, Key="k")


def test_deleting_is_repeatable(cos_client: Any, cos_bucket: str) -> None:
    cos_client.put_object(Bucket=cos_bucket, Key="k", Body=b"x")
    for _ in range(2):
        cos_client.delete_object(Bucket=cos_bucket, Key="k")
    assert not cos_client.object_exists(Bucket=cos_bucket, Key="k")


def test_a_bucket_lives_until_it_is_deleted_empty(cos_client: Any) -> None:
    bucket = "fresh-1250000000"
    cos_client.create_bucket(Bucket=bucket)
    assert cos_client.bucket_exists(Bucket=bucket)
    assert refusal(cos_client.create_bucket, Bucket=bucket) == ("BucketAlreadyOwnedByYou", 409)
    cos_client.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert refusal(cos_client.delete_bucket, Bucket=bucket) == ("BucketNotEmpty", 409)
    cos_client.delete_object(Bucket=bucket, Key="k")
    cos_client.delete_bucket(Bucket=bucket)
    assert not cos_client.bucket_exists(Bucket=bucket)


def test_a_listing_is_paged_in_byte_order_and_filtered(cos_client: Any, cos_bucket: str) -> None:
    keys = ["a", "a/1", "a/2", "a/b/3", "b", "中", "z<&>"]
    for key in keys:
        cos_client.put_object(Bucket=cos_bucket, Key=key, Body=b"x")
    seen: list[str] = []
    marker = ""
    while True:
        page = cos_client.list_objects(Bucket=cos_bucket, MaxKeys=2, Marker=marker)
        seen += [row["Key"] for row in page["Contents"]]
        if page["IsTruncated"] == "false":
            break
        marker = page["NextMarker"]
    assert seen == sorted(keys, key=str.encode)
    below = cos_client.list_objects(Bucket=cos_bucket, Prefix="a/", EncodingType="url")
    assert [row["Key"] for row in below["Contents"]] == ["a/1", "a/2", "a/b/3"]
    assert "Contents" not in cos_client.list_objects(Bucket=cos_bucket, Prefix="none")


def test_a_delimiter_folds_keys_into_common_prefixes_also_across_pages(cos_client: Any, cos_bucket: str) -> None:
    for key in ("a", "b/1", "b/2", "c/1", "d"):
        cos_client.put_object(Bucket=cos_bucket, Key=key, Body=b"x")
    names: list[str] = []
    marker = ""
    for _ in range(4):
        page = cos_client.list_objects(Bucket=cos_bucket, Delimiter="/", MaxKeys=1, Marker=marker)
        names += [row["Key"] for row in page.get("Contents", [])]
        names += [row["Prefix"] for row in page.get("CommonPrefixes", [])]
        marker = page.get("NextMarker", "")
    assert names == ["a", "b/", "c/", "d"]
    assert marker == ""


def test_a_listing_beyond_a_thousand_keys_goes_on(tencent_cloud: Cloud, cos_bucket: str) -> None:
    keys = [f"k{number:05}" for number in range(1005)]
    for key in keys:
        tencent_cloud.cos.put_object(cos_bucket, key, b"")
    assert tencent_cloud.cos.list_objects(cos_bucket) == keys
    assert tencent_cloud.cos.list_objects(cos_bucket, "k0100") == keys[1000:]


def test_limits_of_names_and_metadata(cos_client: Any, cos_bucket: str, tencent_cloud: Cloud) -> None:
    assert refusal(cos_client.put_object, Bucket=cos_bucket, Key="k" * 851, Body=b"") == ("KeyTooLong", 400)
    large = {"x-cos-meta-a": "x" * 2048}
    target = {"Bucket": cos_bucket, "Key": "k", "Body": b""}
    assert refusal(cos_client.put_object, Metadata=large, **target) == ("MetadataTooLarge", 400)
    with pytest.raises(CloudError, match="InvalidBucketName"):
        tencent_cloud.cos.create_bucket("no-appid")
    assert refusal(cos_client.list_objects, Bucket=cos_bucket, MaxKeys=0) == ("InvalidArgument", 400)


def test_what_is_not_emulated_is_refused(cos_client: Any, cos_bucket: str) -> None:
    cos_client.put_object(Bucket=cos_bucket, Key="k", Body=b"x")
    target = {"Bucket": cos_bucket, "Key": "k"}
    assert refusal(cos_client.get_object_acl, **target) == ("NotImplemented", 501)
    assert refusal(cos_client.create_multipart_upload, **target) == ("MethodNotAllowed", 405)
    source = {"Bucket": cos_bucket, "Key": "other", "Region": "ap-guangzhou"}
    assert refusal(cos_client.copy_object, CopySource=source, **target) == ("NotImplemented", 501)
    assert refusal(cos_client.put_object, Body=iter([b"x"]), **target) == ("MissingContentLength", 411)


def test_a_file_is_uploaded_from_a_stream(cos_client: Any, cos_bucket: str) -> None:
    cos_client.put_object(Bucket=cos_bucket, Key="k", Body=io.BytesIO(b"x" * 100_000))
    assert read(cos_client, cos_bucket, "k") == b"x" * 100_000


def test_the_crc_is_crc_64_xz() -> None:
    assert crc64(b"123456789") == from_xz_stream(b"123456789") == 11051210869376104954


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.binary(max_size=70_000))
def test_the_crc_equals_that_of_the_official_sdks_library(data: bytes) -> None:
    import crcmod  # type: ignore[import-untyped]

    official = crcmod.mkCrcFun(0x142F0E1EBA9EA3693, initCrc=0, xorOut=0xFFFFFFFFFFFFFFFF, rev=True)
    assert crc64(data) == from_xz_stream(data) == official(data)


def test_every_planned_code_has_a_status() -> None:
    assert STATUSES["SlowDown"] == 503
    assert set(STATUSES.values()) <= {403, 404, 405, 409, 411, 412, 416, 500, 501, 503}
