FROM busybox
LABEL "com.example.vendor"="ACME Incorporated" \
      version='1.0' \
      description="This text \
goes on"
LABEL empty="" "key with blanks"=v
