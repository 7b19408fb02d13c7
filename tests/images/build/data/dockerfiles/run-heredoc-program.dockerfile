FROM python
RUN <<'SCRIPT'
#!/usr/bin/env python3
print('$x')
SCRIPT
