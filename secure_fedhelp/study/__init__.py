"""The ground floor: plan, policy, channels and member cards as plain validated values. No torch, gRPC or TenSEAL."""
