FROM busybox
COPY a b
COPY a b c/
COPY --chown=1000:staff --chmod=u=rwX,go=rX src/ /srv/
COPY --link --parents --exclude=*.o --exclude=**/tmp ./a/./b /srv/
COPY --link=false --from=other "a b
COPY -- --strange /x
