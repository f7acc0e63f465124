"""How far can you trust your audio or audio-visual event classifier?"""
