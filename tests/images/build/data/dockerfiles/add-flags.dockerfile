FROM busybox
ADD app.tar.gz /
ADD --unpack=false --chmod=0644 app.tar.gz /srv/
ADD --checksum=sha256:0123 https://example.test/a.tgz /
ADD --keep-git-dir=true https://example.test/r.git#main:sub /r
ADD --link --unpack --exclude=*.md a /
