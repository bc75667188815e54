"""The API: models, rules, the CRD and the sentences about what is wrong."""
