"""Images that cannot be had, named, sent or kept."""

from __future__ import annotations

from typing import Final

from tests.mistakes.case import case, starts

IMAGES: Final = (
    case(
        "a name that is none: `Team/App:1`",
        starts('"Team/App:1"'),
        "ReferenceInvalid",
        "team/app:1",
    ),
    case(
        "a bare name that is nothing: `postgers`",
        starts('"postgers", pull="never"'),
        "ImageNotFound",
        "did you mean postgres?",
        "Dockerfile",
    ),
    case("the digest is cut off", starts('f"{FAULTS}/odd@sha256:12"'), "ReferenceInvalid", "64"),
    case("the registry does not know the image", starts('f"{REGISTRY}/nowhere:1"'), "ImageNotFound", "404"),
    case("no registry runs at that address", starts('"127.0.0.1:1/app:1"'), "RegistryError", "refused"),
    case("what runs there is no registry", starts('f"{FAULTS}/no-json:1"'), "ImageError", "not JSON"),
    case(
        "the manifest is not what the digest says",
        starts('f"{FAULTS}/wrong-manifest@{DIGEST}"'),
        "DigestMismatch",
        "wrong-manifest@sha256:",
    ),
    case(
        "a blob is not what its digest says",
        starts('f"{FAULTS}/wrong-blob:1"'),
        "DigestMismatch",
        "wrong-blob:1",
    ),
    case(
        "a blob is longer than announced", starts('f"{FAULTS}/wrong-size:1"'), "DigestMismatch", "wrong size"
    ),
    case(
        "a layer unpacks to something else than its image says",
        starts('f"{FAULTS}/wrong-diff-id:1"'),
        "DigestMismatch",
        "wrong-diff-id:1",
    ),
    case(
        "a layer's gzip data is cut off",
        starts('f"{FAULTS}/truncated:1"'),
        "LayerCorrupt",
        "truncated:1",
        "gzip",
    ),
    case(
        "a layer's tar is cut off", starts('f"{FAULTS}/cut:1"'), "LayerCorrupt", "cut:1", "bytes are missing"
    ),
    case("a layer is no tar", starts('f"{FAULTS}/garbage:1"'), "LayerCorrupt", "garbage:1", "checksum"),
    case(
        "a layer writes outside of itself",
        starts('f"{FAULTS}/escape:1"'),
        "LayerEscape",
        "'../../etc/cron.d/evil'",
    ),
    case(
        '`pull="never"`, and the store has no such image',
        starts('"no-such:1", pull="never"'),
        "ImageNotFound",
        "never",
    ),
    case(
        "another platform of `host`",
        starts('"host", platform="linux/riscv64"'),
        "ImageNotFound",
        "linux/riscv64",
    ),
    case("an image to be pushed is not there", 'images.push("no-such:1")', "ImageNotFound", "no-such:1"),
    case(
        "the file to be imported is not there",
        'images.import_tar("/no/such.tar", "base:1")',
        "SpecInvalid",
        "/no/such.tar",
    ),
    case("the file to be imported is no tar", 'images.import_tar(__file__, "base:1")', "LayerCorrupt", "tar"),
    case(
        "the archive to be loaded is not there",
        'images.load("/no/such.tar")',
        "SpecInvalid",
        "/no/such.tar",
    ),
    case(
        "the tar of a root file system is loaded",
        """
        import tarfile
        with tarfile.open("root.tar", "w") as tar:
            tar.add(__file__, "etc/hello")
        images.load("root.tar")
        """,
        "ImageError",
        "import",
    ),
    case(
        "an archive of images is imported",
        """
        import tarfile
        with tarfile.open("archive.tar", "w") as tar:
            tar.add(__file__, "manifest.json")
        images.import_tar("archive.tar", "base:1")
        """,
        "ImageError",
        "images.load",
    ),
)

PUSH: Final = (
    case(
        "an image that stands on `host` is pushed",
        """
        container("host", command="sleep 60").commit("mine:1")
        images.tag("mine:1", f"{REGISTRY}/mine:1")
        images.push(f"{REGISTRY}/mine:1")
        """,
        "NotPortable",
        "this machine's own files",
    ),
    case(
        "an image on `host` is saved",
        """
        container("host", command="sleep 60").commit("mine:1")
        images.save("mine:1", "out.tar")
        """,
        "NotPortable",
        "mine:1",
    ),
    case(
        "a commit gets a name that is none",
        'container("host", command="sleep 60").commit("Mine")',
        "ReferenceInvalid",
        "'Mine'",
    ),
    case(
        "a commit is to be `host`",
        'container("host", command="sleep 60").commit("host")',
        "ReferenceInvalid",
        "the machine itself",
    ),
)

OFFLINE: Final = (
    case(
        "`--containers-offline`, and the store has no such image",
        starts('f"{REGISTRY}/redis:7"'),
        "ImageNotFound",
        "offline",
        "redis:7",
    ),
    case("`--containers-offline`, and a push", 'images.push("redis:7")', "RegistryError", "offline"),
)

FULL: Final = (
    case(
        "no room to download to",
        starts('f"{FAULTS}/big-blob:1"'),
        "StoreFull",
        "No space left",
        "4 MiB",
        "store",
    ),
    case(
        "no room to unpack in",
        starts('f"{FAULTS}/big-layer:1"'),
        "StoreFull",
        "No space left",
        "4 MiB",
        "store",
    ),
    case(
        "no room to commit to",
        """
        box = container("host", command="sleep 60")
        box.exec("dd if=/dev/urandom of=/srv/noise bs=1M count=8", check=True)
        box.commit("mine:1")
        """,
        "StoreFull",
        "No space left",
    ),
)
