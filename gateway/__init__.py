"""The service between the internet and the model: fetches pictures, asks the model, answers."""

# What servers see that the gateway fetches from. The operator adds a contact.
USER_AGENT = "keras-to-kubernetes/0.1 (set GATEWAY_USER_AGENT to your contact)"
