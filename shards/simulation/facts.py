"""What the simulator takes from measurements: small tables, each with its source. No arithmetic."""

from __future__ import annotations

# Ice charts say which stage of development (first key) and floe size (second key) go together, by partial
# concentration: 10-20 %, 30-50 %, 60-90 %. Hundreds of samples of the ASIP-v2 data set (Greenland, DMI).
STAGE_AND_FLOE: dict[int, dict[int, tuple[float, float, float]]] = {
    81: {2: (5.5, 0.8, 0.0), 3: (0.1, 0.0, 0.0), 4: (1.0, 0.0, 0.0), 5: (0.2, 0.0, 0.0)},
    82: {2: (101, 8.7, 0.0), 3: (156, 93, 0.0), 4: (137, 67, 28), 5: (157, 78, 0.0)},
    83: {2: (56, 54, 0.0), 3: (135, 67, 0.0), 4: (114, 207, 11), 5: (166, 494, 126), 6: (0.0, 163, 208),
         8: (5.5, 0.2, 1.0)},
    84: {3: (2.6, 17, 0.0), 4: (0.7, 12, 0.0), 6: (0.0, 0.0, 2.1)},
    85: {4: (7.7, 3.9, 0.7)},
    87: {2: (62, 0.4, 0.0), 3: (156, 67, 17), 4: (92, 73, 1.6), 5: (78, 169, 0.0), 6: (152, 175, 279),
         7: (0.1, 138, 0.0), 8: (0.1, 4.8, 10.0)},
    91: {2: (228, 36, 0.0), 3: (202, 141, 0.1), 4: (163, 140, 0.0), 5: (271, 196, 1.9), 6: (83, 229, 8.7),
         7: (6.3, 4.9, 132), 8: (0.5, 5.7, 6.6)},
    93: {2: (185, 6.4, 0.0), 3: (129, 46, 0.0), 4: (155, 199, 0.8), 5: (132, 124, 2.9), 6: (365, 238, 3.6),
         7: (0.0, 275, 43), 8: (0.0, 0.0, 4.6)},
    95: {2: (5.9, 0.5, 0.2), 3: (288, 144, 0.0), 4: (264, 253, 0.0), 5: (81, 337, 0.2), 6: (30, 471, 0.0),
         7: (0.5, 1.8, 130), 8: (12, 39, 16)},
    96: {3: (0.6, 0.0, 0.0), 4: (43, 0.0, 0.0), 5: (35, 1.2, 0.0), 6: (97, 215, 0.0), 7: (35, 8.4, 0.0)},
    97: {4: (9.5, 0.0, 0.0), 5: (53, 0.4, 0.0), 6: (47, 24, 0.0), 7: (41, 17, 184)},
    98: {8: (27, 0.0, 0.0), 9: (0.0, 0.1, 0.0), 10: (3.2, 0.1, 0.1)},
}  # fmt: skip

# Labelled pixels of 513 AI4Arctic scenes by class, in millions; the last of SOD and FLOE is ice without a class (255).
ICE_SIC = (33.5, 170.5, 132.3, 92.9, 149.2, 93.6, 175.2, 262.0, 516.8, 1764.3)  # classes 1..10
ICE_SOD = (120.1, 170.4, 143.3, 1000.9, 825.2, 1130.4)  # classes 1..5, 255
ICE_FLOE = (24.7, 159.3, 270.1, 403.0, 1370.3, 10.1, 1152.8)  # classes 1..6, 255

# The same scenes by month: number of scenes, open water share of the labelled pixels, and shares of SOD classes 1..5
# among ice that has a class.
MONTHS: dict[int, tuple[int, float, tuple[float, float, float, float, float]]] = {
    1: (35, 0.339, (0.015, 0.297, 0.240, 0.164, 0.284)),
    2: (31, 0.480, (0.011, 0.101, 0.179, 0.428, 0.281)),
    3: (31, 0.367, (0.013, 0.015, 0.081, 0.622, 0.269)),
    4: (39, 0.463, (0.009, 0.010, 0.021, 0.740, 0.221)),
    5: (41, 0.476, (0.006, 0.0, 0.001, 0.780, 0.214)),
    6: (34, 0.477, (0.0, 0.0, 0.0, 0.788, 0.212)),
    7: (41, 0.672, (0.0, 0.0, 0.0, 0.681, 0.319)),
    8: (65, 0.743, (0.0, 0.0, 0.0, 0.292, 0.708)),
    9: (71, 0.773, (0.147, 0.025, 0.0, 0.118, 0.710)),
    10: (51, 0.690, (0.312, 0.154, 0.006, 0.0, 0.528)),
    11: (37, 0.618, (0.232, 0.201, 0.044, 0.0, 0.522)),
    12: (37, 0.346, (0.085, 0.230, 0.237, 0.015, 0.434)),
}

# Regions of the two ice services: approximate centre (latitude, longitude) in degrees.
DMI_REGIONS = {
    "Qaanaaq_RIC": (77.0, -70.0),
    "CapeFarewell_RIC": (60.0, -44.5),
    "CentralEast_RIC": (71.5, -20.0),
    "NorthEast_RIC": (78.0, -13.0),
    "NorthWest_RIC": (74.0, -60.0),
    "CentralWest_RIC": (70.0, -57.0),
    "North_RIC": (82.5, -55.0),
    "SouthWest_RIC": (65.0, -55.0),
    "SouthEast_RIC": (65.0, -37.0),
}
CIS_REGIONS = {
    "SGRDIEA": (72.0, -78.0),
    "SGRDIFOXE": (67.0, -77.0),
    "SGRDINFLD": (52.0, -54.0),
    "SGRDIWA": (72.0, -118.0),
    "SGRDIMID": (71.0, -97.0),
    "SGRDIHA": (60.0, -86.0),
}
CIS_SHARE = 0.385  # of the scenes

# sigma0 in dB = a + b x incidence angle (degrees), and the standard deviation of the class in dB; HH and HV; then their
# correlation. Lead, young, level and deformed ice: published classifiers (Belgica Bank, April-May 2022). HH slopes of
# first-year and old ice: Kara Sea and RCM studies (-0.24 and -0.17 dB per degree). The levels between are our own
# interpolation: new ice near the calm lead, thin first-year ice near level ice, thick between level and deformed ice.
BACKSCATTER: dict[str, tuple[float, float, float, float, float, float, float]] = {
    # name: (HH a, HH b, HV a, HV b, HH sd, HV sd, correlation)
    "water": (-16.11, -0.289, -28.91, -0.133, 0.7, 0.5, 0.3),
    "new": (-14.60, -0.240, -28.00, -0.110, 1.1, 0.8, 0.3),
    "young": (-7.90, -0.133, -25.74, -0.044, 0.93, 0.88, 0.44),
    "thin": (-6.60, -0.280, -22.47, -0.200, 1.05, 1.30, 0.1),
    "thick": (-6.20, -0.240, -20.60, -0.130, 1.00, 1.35, 0.3),
    "old": (-4.90, -0.167, -18.00, -0.070, 0.80, 1.37, 0.63),
    "land": (-4.5, -0.120, -13.0, -0.100, 2.2, 2.2, 0.8),
}

# Brightness temperatures in K of open water, first-year and multi-year ice, Northern Hemisphere (round-robin data
# package of the sea ice concentration literature). There are no values for 7.3 GHz: those of 6.9 GHz are used.
TIE_POINTS: dict[str, tuple[float, float, float]] = {
    "6_9h": (82.13, 232.14, 218.74), "6_9v": (161.35, 251.59, 242.91),
    "7_3h": (82.13, 232.14, 218.74), "7_3v": (161.35, 251.59, 242.91),
    "10_7h": (88.26, 234.16, 212.47), "10_7v": (167.34, 250.89, 235.26),
    "18_7h": (108.46, 237.16, 201.66), "18_7v": (183.72, 251.56, 219.66),
    "23_8h": (128.23, 236.42, 192.09), "23_8v": (196.41, 250.18, 208.82),
    "36_5h": (145.29, 235.15, 175.72), "36_5v": (209.81, 246.29, 187.18),
    "89_0h": (196.94, 220.94, 169.52), "89_0v": (243.20, 229.52, 178.01),
}  # fmt: skip

# AMSR2 footprint (-3 dB), scan x track, km.
FOOTPRINT_KM = {
    "6_9": (35, 62), "7_3": (34, 58), "10_7": (24, 42), "18_7": (14, 22), "23_8": (15, 26), "36_5": (7, 12),
    "89_0": (3, 5),
}  # fmt: skip
