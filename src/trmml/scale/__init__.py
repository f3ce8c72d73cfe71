"""Tag more images than one sitting holds: a manifest, parts written whole, engines that do them."""
