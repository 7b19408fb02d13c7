FROM busybox
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN false | true
SHELL ["cmd", "/S", "/C"]
