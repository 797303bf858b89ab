# A session of QEMU's own client with fake-qemu: connect, negotiate, plug, unplug, events, an error.
import asyncio
import sys

from qemu.qmp import EventListener, ExecuteError, QMPClient


async def main(socket):
    client = QMPClient("nicferry")
    deleted = EventListener(names=["DEVICE_DELETED"])
    client.register_listener(deleted)
    await client.connect(socket)
    version = (await client.execute("query-version"))["qemu"]
    status = await client.execute("query-status")
    assert status["running"], status
    await client.execute("netdev_add", {"type": "user", "id": "n0"})
    device = {
        "driver": "virtio-net-pci", "id": "net0", "netdev": "n0", "bus": "rp1", "romfile": "",
        "mac": "5a:00:00:00:00:01",
    }
    await client.execute("device_add", device)
    try:
        await client.execute("device_add", device)
        raise AssertionError("the same device twice")
    except ExecuteError as error:
        assert "Duplicate device ID 'net0'" in str(error), error
    await client.execute("device_del", {"id": "net0"})
    paths = []
    while not paths or paths[-1] != "/machine/peripheral/net0":
        event = await asyncio.wait_for(deleted.get(), 30)
        paths.append(event["data"]["path"])
    await client.execute("netdev_del", {"id": "n0"})
    assert await client.execute("query-rx-filter") == []
    await client.disconnect()
    print(
        f"qemu.qmp: connected to {version['major']}.{version['minor']}, negotiated, plugged and "
        f"unplugged a NIC, heard {len(paths)} events"
    )


asyncio.run(main(sys.argv[1]))
