"""What a hostile input may not do: run code, leave its place, reach into the network, or carry secrets out."""
