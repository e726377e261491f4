"""What people may send from the admins' and researchers' pages, one module per noun."""
