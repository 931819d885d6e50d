"""The draft model beside the served one: where it is, what it shares, whether their vocabularies are one."""
