//! Tables of keys: each key of a tool's schema has exactly one rule.
