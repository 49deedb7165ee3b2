/* What the guest's ACPI learns of the pc board. Addresses are those of memmap.h; acpi_test.c
 * compares them.
 */
DefinitionBlock ("", "DSDT", 2, "CLEAVE", "PC", 1)
{
	Scope (\_SB)
	{
		Device (PCI0)
		{
			Name (_HID, EisaId ("PNP0A08")) /* PCI Express root bridge */
			Name (_CID, EisaId ("PNP0A03"))
			Name (_UID, 0)
			Name (_SEG, 0)
			Name (_BBN, 0)
			Name (_CRS, ResourceTemplate ()
			{
				WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
					0, 0, 0xff, 0, 0x100)
				IO (Decode16, 0xcf8, 0xcf8, 1, 8)
				WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
					0, 0x0000, 0x0cf7, 0, 0x0cf8)
				WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
					0, 0x0d00, 0xffff, 0, 0xf300)
				DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
					NonCacheable, ReadWrite,
					0, 0xc0000000, 0xdfffffff, 0, 0x20000000)
				QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
					Cacheable, ReadWrite,
					0, 0x4000000000, 0x5fffffffff, 0, 0x2000000000)
			})

			/* The guest takes PCI Express features over; there is nothing to hand over. */
			Method (_OSC, 4)
			{
				CreateDWordField (Arg3, 0, CDW1)
				If (Arg0 != ToUUID ("33db4d5b-1ff7-401c-9657-7441c03dd766"))
				{
					CDW1 |= 4 /* unrecognized UUID */
				}
				Return (Arg3)
			}

			/* Pin p of device d is wire (d + p) mod 4, at I/O APIC pin 16 + wire. */
			Name (_PRT, Package ()
			{
#define SLOT(d, a, b, c, e) \
				Package () { d, 0, 0, a }, Package () { d, 1, 0, b }, \
				Package () { d, 2, 0, c }, Package () { d, 3, 0, e }
#define FOUR(d0, d1, d2, d3) \
				SLOT (d0, 16, 17, 18, 19), SLOT (d1, 17, 18, 19, 16), \
				SLOT (d2, 18, 19, 16, 17), SLOT (d3, 19, 16, 17, 18)
				FOUR (0x0000ffff, 0x0001ffff, 0x0002ffff, 0x0003ffff),
				FOUR (0x0004ffff, 0x0005ffff, 0x0006ffff, 0x0007ffff),
				FOUR (0x0008ffff, 0x0009ffff, 0x000affff, 0x000bffff),
				FOUR (0x000cffff, 0x000dffff, 0x000effff, 0x000fffff),
				FOUR (0x0010ffff, 0x0011ffff, 0x0012ffff, 0x0013ffff),
				FOUR (0x0014ffff, 0x0015ffff, 0x0016ffff, 0x0017ffff),
				FOUR (0x0018ffff, 0x0019ffff, 0x001affff, 0x001bffff),
				FOUR (0x001cffff, 0x001dffff, 0x001effff, 0x001fffff)
			})

			Device (ISA)
			{
				Name (_ADR, 0x001f0000)

				Device (PIC)
				{
					Name (_HID, EisaId ("PNP0000"))
					Name (_CRS, ResourceTemplate ()
					{
						IO (Decode16, 0x20, 0x20, 1, 2)
						IO (Decode16, 0xa0, 0xa0, 1, 2)
						IO (Decode16, 0x4d0, 0x4d0, 1, 2)
						IRQNoFlags () { 2 }
					})
				}

				Device (PIT)
				{
					Name (_HID, EisaId ("PNP0100"))
					Name (_CRS, ResourceTemplate ()
					{
						IO (Decode16, 0x40, 0x40, 1, 4)
						IRQNoFlags () { 0 }
					})
				}

				Device (RTC)
				{
					Name (_HID, EisaId ("PNP0B00"))
					Name (_CRS, ResourceTemplate ()
					{
						IO (Decode16, 0x70, 0x70, 1, 2)
						IRQNoFlags () { 8 }
					})
				}

				Device (KBD)
				{
					Name (_HID, EisaId ("PNP0303"))
					Name (_CRS, ResourceTemplate ()
					{
						IO (Decode16, 0x60, 0x60, 1, 1)
						IO (Decode16, 0x64, 0x64, 1, 1)
						IRQNoFlags () { 1 }
					})
				}

				Device (MOU)
				{
					Name (_HID, EisaId ("PNP0F13"))
					Name (_CRS, ResourceTemplate ()
					{
						IRQNoFlags () { 12 }
					})
				}

				Device (COM1)
				{
					Name (_HID, EisaId ("PNP0501"))
					Name (_UID, 1)
					Name (_CRS, ResourceTemplate ()
					{
						IO (Decode16, 0x3f8, 0x3f8, 1, 8)
						IRQNoFlags () { 4 }
					})
				}
			}
		}

		/* What no other device claims. */
		Device (MB)
		{
			Name (_HID, EisaId ("PNP0C02"))
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x61, 0x61, 1, 1)
				IO (Decode16, 0x80, 0x80, 1, 1)
				IO (Decode16, 0x92, 0x92, 1, 1)
				IO (Decode16, 0xf4, 0xf4, 1, 4)
				IO (Decode16, 0x600, 0x600, 1, 0x30)
				Memory32Fixed (ReadWrite, 0xe0000000, 0x10000000)
			})
		}
	}

	/* Off: sleep type 5, PM_SLEEP_TYPE_OFF of dev/acpi/pm.h. */
	Name (\_S5, Package () { 5, 0, 0, 0 })

	/* The guest says whether it uses the I/O APIC; the routing above is for that only. */
	Name (\PICM, 0)
	Method (\_PIC, 1)
	{
		PICM = Arg0
	}
}
