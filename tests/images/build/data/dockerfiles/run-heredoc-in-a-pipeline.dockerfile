FROM busybox
RUN cat <<A 3<<-"B C" | sort > /out
$one
A
	two
	B C
RUN echo "<<NO" '<<NO' \<<NO <<<NO
