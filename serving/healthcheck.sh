# Ends with 0 if a version of the model is served. bash alone: tensorflow/serving has no curl.
# Without a look at the state the answer would be 200 for a model that is still loading, too.
exec 3<>"/dev/tcp/127.0.0.1/${1:-8501}" || exit 1
printf 'GET /v1/models/%s HTTP/1.0\r\n\r\n' "$MODEL_NAME" >&3
[[ $(cat <&3) == *'"AVAILABLE"'* ]]
