//! Everything that touches the portal's database.
