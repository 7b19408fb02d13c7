FROM debian:bookworm-slim

# The group and user come first, so that their numbers never change.
RUN set -eux; \
	groupadd -r db --gid=999; \
# the home has to be there
	useradd -r -g db --uid=999 db; \
	install --directory -o db /var/lib/db

ENV DB_MAJOR 16
ENV PATH $PATH:/usr/lib/db/$DB_MAJOR/bin
VOLUME /var/lib/db
COPY entrypoint.sh /usr/local/bin/
RUN ln -s usr/local/bin/entrypoint.sh / # for older scripts
ENTRYPOINT ["entrypoint.sh"]
STOPSIGNAL SIGINT
EXPOSE 5432
CMD ["db"]
