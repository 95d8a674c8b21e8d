"""What a storage peer does, without any network: L{meshkit.storage.keeper.keeper.Keeper}."""
