from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("labelapp", "0008_pairwise"),
    ]

    operations = [
        migrations.AddField(
            model_name="user",
            name="language",
            field=models.CharField(
                blank=True,
                default="",
                help_text="Of the pages; empty: as the browser asks.",
                max_length=8,
            ),
        ),
        migrations.AddConstraint(
            model_name="user",
            constraint=models.CheckConstraint(
                condition=models.Q(("language__in", ["", "en", "de"])), name="user_language"
            ),
        ),
    ]
