# Exit with 0 if a version of the model is served. Uses only bash: tensorflow/serving has no curl.
# Reads the state, because the status is 200 in every state of the model.
exec 3<>"/dev/tcp/127.0.0.1/${1:-8501}" || exit 1
printf 'GET /v1/models/%s HTTP/1.0\r\n\r\n' "$MODEL_NAME" >&3
[[ $(cat <&3) == *'"AVAILABLE"'* ]]
