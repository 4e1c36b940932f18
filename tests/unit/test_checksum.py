import hashlib

from lomt.checksum import sha256_of


def test_it_is_that_of_the_whole_content_however_long(tmp_path):
    for size in (0, 5, (1 << 20) + 3):
        content = bytes(i % 251 for i in range(size))
        (tmp_path / "file").write_bytes(content)
        assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()
