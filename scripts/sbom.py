#!/usr/bin/env python3
"""The SPDX 2.3 document of a release: what is inside its files, in which version, under which licence.

    sbom.py VERSION COMMIT EPOCH NANOBIND_VERSION > engram-VERSION.spdx.json

LINKED is what cmake/EngramDependencies.cmake finds, by its names there, with the Debian package whose version is asked
for; tests/structure/release_test.py compares the two. The licence texts lie beside the files that hold the code.
"""

import json
import subprocess
import sys
import time

# Name in cmake: (Debian package, licence, how the files use it). None: nothing of it is in a file.
LINKED = {
    "nlohmann_json": ("nlohmann-json3-dev", "MIT", "library wheel"),
    "fmt": ("libfmt-dev", "MIT", "library wheel"),
    "utf8proc": ("libutf8proc-dev", "MIT", "library wheel"),
    "pcre2": ("libpcre2-dev", "BSD-3-Clause", "library wheel"),
    "onig": ("libonig-dev", "BSD-2-Clause", "library wheel"),
    "uring": ("liburing-dev", "MIT", "library wheel"),
    "hwy": ("libhwy-dev", "Apache-2.0 OR BSD-3-Clause", "library wheel"),
    "zlib": ("zlib1g-dev", "Zlib", ""),
    "zstd": ("libzstd-dev", "BSD-3-Clause", ""),
    "tomlplusplus": ("libtomlplusplus-dev", "MIT", ""),
    "CLI11": ("libcli11-dev", "BSD-3-Clause", ""),
    "Boost": ("libboost-dev", "BSL-1.0", ""),
    "spdlog": ("libspdlog-dev", "MIT", ""),
    "libstdc++": ("libstdc++6", "GPL-3.0-or-later WITH GCC-exception-3.1", "library wheel"),
    "nanobind": (None, "BSD-3-Clause", "wheel"),
}
FILES = {"source": "engram", "library": "libengram", "wheel": "engram-tables"}


def version_of(package):
    asked = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True)
    if asked.returncode != 0:
        sys.exit(f"error: Debian package {package} is not installed: run scripts/setup.sh first")
    return asked.stdout


def spdx_id(name):
    return "SPDXRef-" + name.replace("+", "-plus").replace("_", "-")


def package(name, version, licence, source):
    return {"name": name, "SPDXID": spdx_id(name), "versionInfo": version, "licenseConcluded": licence,
            "licenseDeclared": licence, "copyrightText": "NOASSERTION", "downloadLocation": "NOASSERTION",
            "filesAnalyzed": False, "comment": source}


def document(version, commit, epoch, nanobind):
    packages = [package(name, version, "Apache-2.0", f"commit {commit}") for name in FILES.values()]
    relationships = [{"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": spdx_id(name)}
                     for name in FILES.values()]
    for name, (debian, licence, files) in LINKED.items():
        if not files:
            continue
        packages.append(package(name, version_of(debian) if debian else nanobind, licence,
                                f"Debian package {debian}" if debian else "PyPI"))
        relationships += [{"spdxElementId": spdx_id(FILES[file]), "relationshipType": "STATIC_LINK",
                           "relatedSpdxElement": spdx_id(name)} for file in files.split()]
    return {"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": f"engram-{version}",
            "documentNamespace": f"urn:engram:{version}:{commit}",
            "creationInfo": {"created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch)),
                             "creators": ["Tool: scripts/sbom.py"]},
            "packages": packages, "relationships": relationships}


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit("error: wanted VERSION COMMIT EPOCH NANOBIND_VERSION")
    print(json.dumps(document(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]), indent=1))
