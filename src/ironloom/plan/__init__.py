"""What a configuration will take: memory now; speed and cost as they are built."""
