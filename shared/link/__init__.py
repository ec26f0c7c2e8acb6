"""One connection to the broker, over paho-mqtt or in memory."""
