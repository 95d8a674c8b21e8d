"""
Storage peers over HTTP/1.1: what is said (L{meshkit.storage.http.wire}), who serves it
(L{meshkit.storage.http.server}) and who asks (L{meshkit.storage.http.client}).

Whose request it is, is known by the secure channel beneath, or where there is TLS by a signature
(L{meshkit.runtime.signed.signatures}).
"""
