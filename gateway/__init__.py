"""The service between the internet and the model: fetches pictures, asks the model, answers."""

# How it introduces itself to servers that it fetches from. Whom to ask is for the operator to say.
USER_AGENT = "keras-to-kubernetes/0.1 (set GATEWAY_USER_AGENT to your contact)"
