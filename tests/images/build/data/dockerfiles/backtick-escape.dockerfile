# escape=`
FROM servercore
WORKDIR c:\app
COPY a.txt c:\
RUN powershell -Command `
    dir c:\
ENV P=c:\tools` x Q="`"y`""
