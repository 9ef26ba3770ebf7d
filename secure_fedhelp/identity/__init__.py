"""Who is who: certificates of a consortium's own authority, Ed25519 signatures, member cards, revocation."""
